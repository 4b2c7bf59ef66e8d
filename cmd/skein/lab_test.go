package main

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/skein-os/skein/agent/seed"
)

func TestParseGroups(t *testing.T) {
	tests := []struct {
		args []string
		want [][]string // nil: refused
	}{
		{[]string{"n1,n2|n3"}, [][]string{{"n1", "n2"}, {"n3"}}},
		{[]string{"n1,n2", "n3"}, [][]string{{"n1", "n2"}, {"n3"}}},
		{[]string{"n1"}, [][]string{{"n1"}}},
		{[]string{"n1||n2"}, nil},
		{[]string{"n1,,n2"}, nil},
		{[]string{""}, nil},
	}
	for _, tt := range tests {
		got, err := parseGroups(tt.args)
		if !reflect.DeepEqual(got, tt.want) || (err == nil) != (tt.want != nil) {
			t.Errorf("%q: got %v, %v, want %v", tt.args, got, err, tt.want)
		}
	}
}

func TestLabSeeds(t *testing.T) {
	dir := t.TempDir()
	first, err := newLabCluster(dir, 3)
	if err != nil {
		t.Fatal(err)
	}
	n, err := first.node(2)
	if err != nil {
		t.Fatal(err)
	}
	s, err := seed.Parse(n.Seed)
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "n2" || s.Expect != 3 || s.Token != first.Token || s.Operators[0] != first.Operator {
		t.Fatalf("got %+v, want the seed of n2 of %+v", s, first)
	}
	second, err := newLabCluster(dir, 3)
	if err != nil {
		t.Fatal(err)
	}
	if second.Token == first.Token || second.Operator != first.Operator {
		t.Fatal("a new cluster needs a new token and keeps the operator")
	}
	for _, f := range []string{labClusterFile, labOperatorFile} {
		st, err := os.Stat(filepath.Join(dir, f))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Fatalf("%s: got %v, %v, want mode 0600", f, st, err)
		}
	}
}

func TestSaveFolderStaysInside(t *testing.T) {
	for _, name := range []string{"", "../x", "a/b", ".hidden", "."} {
		if got, err := saveFolder("/lab", name); err == nil {
			t.Errorf("%q: got %s, want an error", name, got)
		}
	}
}

func TestParsePercent(t *testing.T) {
	for text, want := range map[string]float64{"30": 0.3, "0": 0, "12.5%": 0.125, "100%": 1} {
		if got, err := parsePercent(text); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "n1", "-1", "101", "NaN", "3e"} {
		if got, err := parsePercent(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func TestParseLUNs(t *testing.T) {
	for _, tt := range []struct {
		text string
		want []int64 // nil: refused
	}{
		{"1", []int64{768 << 20}},
		{"3", []int64{768 << 20, 2 << 30, 2 << 30}},
		{"64M,1.5g", []int64{64 << 20, 3 << 29}},
		{"1GiB", []int64{1 << 30}},
		{"0", nil}, {"17", nil}, {"", nil}, {"64M,", nil}, {"-5", nil}, {"100k", nil}, {"1000001", nil}, {"1000001b", nil}, {"9999999T", nil},
	} {
		got, err := parseLUNs(tt.text)
		if !reflect.DeepEqual(got, tt.want) || (err == nil) != (tt.want != nil) {
			t.Errorf("%q: got %v, %v, want %v", tt.text, got, err, tt.want)
		}
	}
}
