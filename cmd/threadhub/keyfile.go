package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"threadhub/config"
	"threadhub/internal/seal"
)

// keyFile is where a gateway with an embedded store keeps its encryption key when the operator gave none.
const keyFile = "encryption.key"

// keyring returns the keys that seal what is stored: ENCRYPTION_KEY, or, with an embedded store, the key in the data
// folder, which is made when there is none. A shared store needs the setting, as all processes need the same key.
func keyring(cfg *config.Config) (*seal.Keyring, error) {
	if !cfg.EncryptionKey.Empty() {
		return seal.ParseKeyring(cfg.EncryptionKey.Reveal())
	}
	if _, embedded := cfg.SQLiteFile(); !embedded {
		return nil, errors.New("ENCRYPTION_KEY is needed with Postgres: every process must have the same one." +
			" Make it once with: openssl rand -base64 32 | tr '+/' '-_' and keep it, as nothing sealed opens without it")
	}
	path := filepath.Join(cfg.DataDir, keyFile)
	text, err := readKeyFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeKeyFile(path); err != nil {
			return nil, fmt.Errorf("data_dir is %s, and nothing can be kept there: %w; choose another folder with --data-dir", cfg.DataDir, err)
		}
		text, err = readKeyFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("data_dir is %s, and its encryption key cannot be read: %w", cfg.DataDir, err)
	}
	keys, err := seal.ParseKeyring(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}

func readKeyFile(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s holds the encryption key and can be read by others: run chmod 600 %s", path, path)
	}
	text, err := os.ReadFile(path)
	return strings.TrimSpace(string(text)), err
}

// makeKeyFile writes a fresh key. Of two processes that do it at once one wins, whole, and the other's key is dropped.
func makeKeyFile(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, keyFile+".*") // made with mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.WriteString(seal.NewKey() + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
