// Package demo builds the container images of the demonstration: a web site (demo/web:1), a media
// server (demo/media:1) and a report generator (demo/reports:1). They are real images: nginx and its
// libraries from Debian's packages, a shell for `skein exec` and health checks from busybox, and a
// small Go program.
//
// On request there is a database too (demo/postgres:1): Debian's PostgreSQL, for services with a volume.
//
// Each is written as one OCI image layout in a tar file (image-layout.md of the OCI image
// specification), with its reference in the index, which `skein image load` and other tools read. Same
// input, same bytes. web and media share all but their last layer.
//
// The images run with a read-only root, one tmpfs at /tmp and the small default set of capabilities;
// compose.yaml, written beside them, says so.
package demo
