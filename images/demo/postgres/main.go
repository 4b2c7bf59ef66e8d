// Command postgres starts PostgreSQL in its container: on an empty volume it makes the database first, with
// data checksums, and then it becomes the server.
//
// A database is made beside its place and renamed when it is complete and on the disk: a power cut while it
// is made leaves nothing that looks like one.
//
// It is set up by the environment names that images of PostgreSQL usually have; its arguments are the
// server's:
//
//	POSTGRES_PASSWORD       of the superuser, only used when the database is made
//	POSTGRES_PASSWORD_FILE  a file with it, instead
//	POSTGRES_USER           the superuser (postgres)
//	POSTGRES_DB             a database to make (none but postgres)
//	PGDATA                  the folder of the database (/var/lib/postgresql/data/pgdata)
//
// Started as root it gives the volume to the user postgres (999) and becomes that user.
package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	programs = "/usr/lib/postgresql/15/bin"
	user     = 999
	// sockets is where the server's local socket is: the root is read-only.
	sockets = "/tmp"
)

func main() {
	if err := run(os.Args[1:], os.Getenv); err != nil {
		fmt.Fprintln(os.Stderr, "start-postgres:", err)
		os.Exit(1)
	}
}

func run(args []string, env func(string) string) error {
	data := cmp.Or(env("PGDATA"), "/var/lib/postgresql/data/pgdata")
	if os.Getuid() == 0 {
		if err := give(data); err != nil {
			return err
		}
	}
	_, err := os.Stat(filepath.Join(data, "PG_VERSION"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := create(data, env); err != nil {
			return fmt.Errorf("make a database in %s: %w", data, err)
		}
	case err != nil:
		return err
	}
	server := filepath.Join(programs, "postgres")
	return syscall.Exec(server, append([]string{"postgres", "-D", data}, args...), os.Environ())
}

// give makes the volume the server's, and this process its user.
func give(data string) error {
	volume := filepath.Dir(data)
	if err := os.MkdirAll(volume, 0o700); err != nil {
		return err
	}
	if err := os.Chown(volume, user, user); err != nil {
		return fmt.Errorf("give %s to the user postgres: %w", volume, err)
	}
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setgid(user); err != nil {
		return err
	}
	return syscall.Setuid(user)
}

func create(data string, env func(string) string) error {
	if left, err := os.ReadDir(data); err == nil && len(left) > 0 {
		return fmt.Errorf("it has files (%s, ...) but is no database: empty it, or set PGDATA to another folder", left[0].Name())
	}
	password, err := password(env)
	if err != nil {
		return err
	}
	secret, err := os.CreateTemp(sockets, "password")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(secret.Name()) }()
	if _, err := secret.WriteString(password + "\n"); err != nil {
		return err
	}
	if err := secret.Close(); err != nil {
		return err
	}
	made := data + ".new" // of an attempt that was cut off, too
	if err := os.RemoveAll(made); err != nil {
		return err
	}
	name := cmp.Or(env("POSTGRES_USER"), "postgres")
	fmt.Printf("making a database in %s\n", data)
	if err := do("initdb", "", "-D", made, "--username="+name, "--pwfile="+secret.Name(), "--data-checksums",
		"--encoding=UTF8", "--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256"); err != nil {
		return err
	}
	if err := appendTo(filepath.Join(made, "pg_hba.conf"), "host all all all scram-sha-256\n"); err != nil {
		return err
	}
	settings := fmt.Sprintf("listen_addresses = '*'\nunix_socket_directories = '%s'\njit = off\nrecovery_init_sync_method = syncfs\n", sockets)
	if err := appendTo(filepath.Join(made, "postgresql.conf"), settings); err != nil {
		return err
	}
	if db := env("POSTGRES_DB"); db != "" && db != "postgres" {
		quoted := `"` + strings.ReplaceAll(db, `"`, `""`) + `"`
		if err := do("postgres", "CREATE DATABASE "+quoted+";\n", "--single", "-D", made, "postgres"); err != nil {
			return err
		}
	}
	if err := do("initdb", "", "-D", made, "--sync-only"); err != nil {
		return err
	}
	_ = os.Remove(data) // an empty folder
	if err := os.Rename(made, data); err != nil {
		return err
	}
	return syncDir(filepath.Dir(data))
}

func password(env func(string) string) (string, error) {
	p, file := env("POSTGRES_PASSWORD"), env("POSTGRES_PASSWORD_FILE")
	switch {
	case p != "" && file != "":
		return "", errors.New("both POSTGRES_PASSWORD and POSTGRES_PASSWORD_FILE are set: leave one out")
	case file != "":
		b, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("POSTGRES_PASSWORD_FILE: %w", err)
		}
		p = strings.TrimRight(string(b), "\r\n")
	}
	if p == "" {
		return "", errors.New("set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE: a database is not made without a password")
	}
	return p, nil
}

func do(program, input string, args ...string) error {
	cmd := exec.Command(filepath.Join(programs, program), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	return nil
}

func appendTo(file, text string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
