// Package seal keeps secrets: Secret hides one in memory from prints and logs, Box seals one at rest under a data key,
// and Keyring seals the data keys under the operator's key-encryption keys.
//
// It promises that nothing sealed opens with another key, another binding or one changed byte, and that no error, print
// or log line of it holds key material or content. Where sealed things are stored, and what they are bound to, is up to
// the rooms.
package seal
