package demo

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/skein-os/skein/initramfs/debian"
	"github.com/skein-os/skein/initramfs/tree"
)

const (
	pgVersion  = "15"
	pgPrograms = "/usr/lib/postgresql/" + pgVersion
	pgShare    = "/usr/share/postgresql/" + pgVersion
)

// pgServer and pgClient are the programs of the two packages that the image has.
var (
	pgServer = []string{"postgres", "initdb", "pg_ctl", "pg_controldata", "pg_checksums", "pgbench"}
	pgClient = []string{"psql", "pg_isready", "pg_amcheck", "pg_dump"}
)

// pgLibs are the packages that their libraries are looked for in.
var pgLibs = []string{
	"gcc-12-base", "libaudit1", "libc6", "libcap-ng0", "libcap2", "libcom-err2", "libffi8", "libgcc-s1", "libgcrypt20",
	"libgmp10", "libgnutls30", "libgpg-error0", "libgssapi-krb5-2", "libhogweed6", "libicu72", "libidn2-0", "libk5crypto3",
	"libkeyutils1", "libkrb5-3", "libkrb5support0", "libldap-2.5-0", "liblz4-1", "liblzma5", "libnettle8",
	"libp11-kit0", "libpam0g", "libpcre2-8-0", "libpq5", "libreadline8", "libsasl2-2", "libselinux1", "libssl3", "libstdc++6", "libsystemd0",
	"libtasn1-6", "libtinfo6", "libunistring2", "libuuid1", "libxml2", "libzstd1", "zlib1g",
}

// postgresRecipe is the database of the storage tests and of whoever wants to try a volume: Debian's
// PostgreSQL without its scripts, without the just-in-time compiler (130 MB) and the XML extension, and with the zone UTC only.
func postgresRecipe(ctx context.Context, a *debian.Archive, base *tree.Tree, starter string) (recipe, error) {
	t := tree.New()
	server, err := a.Fetch(ctx, "postgresql-"+pgVersion)
	if err != nil {
		return recipe{}, err
	}
	client, err := a.Fetch(ctx, "postgresql-client-"+pgVersion)
	if err != nil {
		return recipe{}, err
	}
	zones, err := a.Fetch(ctx, "tzdata")
	if err != nil {
		return recipe{}, err
	}
	packages := []debian.Package{server, client, zones}
	for _, name := range pgLibs {
		p, err := a.Fetch(ctx, name)
		if err != nil {
			return recipe{}, err
		}
		packages = append(packages, p)
	}
	var programs []string
	for p, names := range map[*debian.Package][]string{&server: pgServer, &client: pgClient} {
		for _, name := range names {
			name = path.Join(pgPrograms, "bin", name)
			if err := copyFrom(t, *p, name, 0o755); err != nil {
				return recipe{}, err
			}
			programs = append(programs, filepath.Join(p.Root, name))
		}
	}
	modules, err := copyBelow(t, server, pgPrograms+"/lib", func(name string) bool {
		base := path.Base(name)
		return path.Ext(name) == ".so" && path.Dir(name) == pgPrograms+"/lib" && base != "llvmjit.so" && base != "pgxml.so"
	})
	if err != nil {
		return recipe{}, err
	}
	if _, err := copyBelow(t, server, pgShare, func(name string) bool { return !strings.Contains(name, "/man/") }); err != nil {
		return recipe{}, err
	}
	if err := copyFrom(t, zones, "/usr/share/zoneinfo/Etc/UTC", 0o644); err != nil {
		return recipe{}, err
	}
	if err := t.Link("/usr/share/zoneinfo/UTC", "Etc/UTC"); err != nil {
		return recipe{}, err
	}
	libs, err := debian.Libraries(append(programs, modules...), packages)
	if err != nil {
		return recipe{}, err
	}
	for _, l := range libs {
		if err := t.Copy(l.Path, 0o755, l.Source); err != nil {
			return recipe{}, err
		}
	}
	for _, p := range packages {
		if p.Name == "libgcc-s1" || p.Name == "libstdc++6" {
			continue // gcc-12-base has it
		}
		if err := copyFrom(t, p, licence(p), 0o644); err != nil {
			return recipe{}, err
		}
	}
	if err := t.Dir("/var/lib/postgresql/data", 0o755); err != nil {
		return recipe{}, err
	}
	if err := addEmbedded(t, "files/postgres"); err != nil {
		return recipe{}, err
	}
	top := tree.New()
	if err := top.Copy("/usr/bin/start-postgres", 0o755, starter); err != nil {
		return recipe{}, fmt.Errorf("the starter of PostgreSQL: %w", err)
	}
	return recipe{"postgres", []*tree.Tree{base, t, top}, v1.Config{
		Entrypoint: []string{"/usr/bin/start-postgres"}, WorkingDir: "/",
		Env:          []string{"PATH=" + pgPrograms + "/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PGHOST=/tmp", "PGUSER=postgres", "PGDATA=/var/lib/postgresql/data/pgdata"},
		StopSignal:   "SIGINT", // PostgreSQL's fast shutdown: sessions are ended, the journal is written
		ExposedPorts: map[string]struct{}{"5432/tcp": {}}, Volumes: map[string]struct{}{"/var/lib/postgresql/data": {}},
	}}, nil
}

// copyBelow copies the regular files of a package below dir that take wants, and returns where they are on
// this machine.
func copyBelow(t *tree.Tree, p debian.Package, dir string, take func(name string) bool) ([]string, error) {
	var sources []string
	root := filepath.Join(p.Root, dir)
	err := filepath.WalkDir(root, func(source string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(root, source)
		if err != nil {
			return err
		}
		name := path.Join(dir, filepath.ToSlash(rel))
		if !take(name) {
			return nil
		}
		info, err := os.Stat(source)
		if err != nil {
			return err
		}
		sources = append(sources, source)
		return t.Copy(name, info.Mode().Perm()|0o444, source)
	})
	if err == nil && len(sources) == 0 {
		err = fmt.Errorf("package %s has nothing below %s", p.Name, dir)
	}
	return sources, err
}
