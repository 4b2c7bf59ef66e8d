package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/qemu/daemon"
)

// saveName keeps saves inside their folder.
var saveName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$`)

// saveFolder is where the save with a name is.
func saveFolder(dir, name string) (string, error) {
	if !saveName.MatchString(name) {
		return "", &usageError{fmt.Errorf("save %q: a name is letters, digits, dots and dashes", name)}
	}
	return filepath.Join(dir, labSaves, name), nil
}

func labSaveCommand() *cobra.Command {
	var replace bool
	cmd := &cobra.Command{
		Use: "save NAME", Short: "Save the whole running cluster, to carry on from there later", Args: cobra.ExactArgs(1),
		Long: `save stops all machines for a moment, writes them to the lab's folder and lets them go on. A cluster that
is restored carries on with the connections its machines had to each other. Its clocks are as late as
the save is old. A save is for the same image and the same QEMU.`,
		Example: "  skein lab save ready\n  skein lab down\n  skein lab up --from ready",
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := labDir(cmd)
			if err != nil {
				return err
			}
			folder, err := saveFolder(dir, args[0])
			if err != nil {
				return err
			}
			if _, err := os.Stat(folder); err == nil {
				if !replace {
					return fmt.Errorf("there is a save %q already; --replace writes it anew", args[0])
				}
				if err := os.RemoveAll(folder); err != nil {
					return err
				}
			}
			if err := os.MkdirAll(filepath.Dir(folder), 0o700); err != nil {
				return err
			}
			if err := daemon.NewClient(dir).Call(cmd.Context(), daemon.Call{Op: daemon.OpSave, Folder: folder}); err != nil {
				return err
			}
			return copySecrets(folder, dir)
		},
	}
	cmd.Flags().BoolVar(&replace, "replace", false, "write a save anew that is there already")
	return cmd
}

func labSavesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "saves", Short: "List the saved clusters", Args: cobra.NoArgs,
		Example: "  skein lab saves",
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := labDir(cmd)
			if err != nil {
				return err
			}
			type row struct {
				Name  string    `json:"name"`
				Saved time.Time `json:"saved"`
			}
			rows := []row{}
			entries, err := os.ReadDir(filepath.Join(dir, labSaves))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			for _, e := range entries {
				if st, err := os.Stat(filepath.Join(dir, labSaves, e.Name(), "lab.json")); err == nil {
					rows = append(rows, row{e.Name(), st.ModTime()})
				}
			}
			return show(cmd, rows, func(t *table) {
				t.row("NAME", "SAVED")
				for _, r := range rows {
					t.row(r.Name, r.Saved.Local().Format(time.DateTime))
				}
			})
		},
	}
	addOutputFlag(cmd)
	return cmd
}
