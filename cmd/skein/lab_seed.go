package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/seed"
	"github.com/skein-os/skein/qemu"
)

// Files of secrets in the lab's folder and in a save, readable by their owner only.
const (
	labClusterFile  = "cluster.json"
	labOperatorFile = "operator.pem"
)

// labClusterName is what every lab's cluster is called.
const labClusterName = "lab"

// labCluster is what all machines of a lab are told.
type labCluster struct {
	Name   string `json:"name"`
	Token  string `json:"token"`  // what a machine needs to join
	Expect int    `json:"expect"` // how many form the cluster
	// Operator is the SHA-256 of the operator's public key, hex.
	Operator string `json:"operator"`
}

// newLabCluster makes the secrets of a cluster of so many machines. The operator's key is made once for
// a folder and kept.
func newLabCluster(dir string, nodes int) (*labCluster, error) {
	var token [32]byte
	if _, err := rand.Read(token[:]); err != nil {
		return nil, err
	}
	operator, err := operatorKey(filepath.Join(dir, labOperatorFile))
	if err != nil {
		return nil, err
	}
	c := &labCluster{Name: labClusterName, Token: hex.EncodeToString(token[:]), Expect: nodes, Operator: operator}
	data, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return c, os.WriteFile(filepath.Join(dir, labClusterFile), data, 0o600)
}

func readLabCluster(dir string) (*labCluster, error) {
	data, err := os.ReadFile(filepath.Join(dir, labClusterFile))
	if err != nil {
		return nil, fmt.Errorf("read the lab's secrets: %w", err)
	}
	var c labCluster
	return &c, json.Unmarshal(data, &c)
}

// operatorKey reads or makes the operator's key and returns the hash of its public part.
func operatorKey(path string) (string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return "", err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return "", err
		}
		data = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return "", fmt.Errorf("keep the operator's key: %w", err)
		}
	} else if err != nil {
		return "", fmt.Errorf("read the operator's key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return "", fmt.Errorf("%s holds no key in PEM form: remove it and a new one is made", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("%s: %w; remove it and a new one is made", path, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return "", fmt.Errorf("%s holds another kind of key than ECDSA: remove it and a new one is made", path)
	}
	spki, err := x509.MarshalPKIXPublicKey(&ec.PublicKey)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:]), nil
}

// labWitness is what the first witness is called; a second one is called like a node.
const labWitness = "witness"

// node makes the machine with a number, with its seed.
func (c *labCluster) node(number int) (qemu.Node, error) {
	return c.machine(fmt.Sprintf("n%d", number), number, "")
}

func (c *labCluster) machine(name string, number int, role string) (qemu.Node, error) {
	data, err := json.Marshal(seed.Seed{Cluster: c.Name, Token: c.Token, Expect: c.Expect, Name: name, Role: role,
		Network: cluster.DefaultNetwork.Prefix, Operators: []string{c.Operator}})
	if err != nil {
		return qemu.Node{}, err
	}
	if _, err := seed.Parse(data); err != nil {
		return qemu.Node{}, fmt.Errorf("seed of %s: %w", name, err)
	}
	return qemu.Node{Name: name, Number: number, Seed: data}, nil
}

// next makes the machine with the lowest number that none of a lab's machines has.
func (c *labCluster) next(machines []qemu.Status, witness bool) (qemu.Node, error) {
	names, numbers := map[string]bool{}, map[string]bool{}
	for _, m := range machines {
		names[m.Name] = true
		for _, a := range m.Addresses {
			numbers[a] = true
		}
	}
	number := 1
	for numbers[qemu.Addr(0, number).String()] {
		number++
	}
	switch {
	case witness && !names[labWitness]:
		return c.machine(labWitness, number, seed.RoleWitness)
	case witness:
		return c.machine(fmt.Sprintf("n%d", number), number, seed.RoleWitness)
	}
	return c.node(number)
}

// copySecrets copies what a lab's folder holds beside its machines.
func copySecrets(to, from string) error {
	for _, name := range []string{labClusterFile, labOperatorFile} {
		data, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
