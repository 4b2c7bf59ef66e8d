// Package tests holds what only a whole system can show: clusters of virtual machines that are used and
// broken as a user would, and guests that test the parts which need a real kernel. Everything here is
// skipped where there is no image to boot (SKEIN_IMAGE_DIR) or no emulator; `make test` sets both up.
package tests
