package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"threadhub/internal/seal"
)

// The bounds of most durations. Tests run with a fiftieth of the defaults, so the lower one is small.
const (
	short = time.Millisecond
	long  = time.Hour
)

const minSecretKey = 32 // characters

// The secrets of example.yaml. Everybody can read them, so nobody may seal or sign with them.
const (
	sampleEncryptionKey = "c2FtcGxlLWtleS1kby1ub3QtdXNlLWluLXNlcnZpY2U="
	sampleSecretKey     = "sample-secret-do-not-use-in-service"
)

func address(path, about string, field *string) setting {
	return plain(path, about, field, func(text string) error {
		_, port, err := net.SplitHostPort(text)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n > 65535 {
			return errors.New(`must be host:port with a port from 0 to 65535, like "127.0.0.1:8080" or ":8080"`)
		}
		return nil
	})
}

func folder(path, about string, field *string) setting {
	return plain(path, about, field, func(text string) error {
		if text == "" || strings.ContainsRune(text, 0) {
			return errors.New("must be the path of a folder")
		}
		return nil
	})
}

// serviceURL is the address of a service: it may carry a password, so it is a secret. Empty: not set.
func serviceURL(path, about string, field *seal.Secret, schemes ...string) setting {
	allowed := fmt.Errorf("must be a URL that begins with %s", either(schemes, "%s://"))
	return hidden(path, about, field, func(text string) error {
		scheme, rest, found := strings.Cut(text, "://")
		switch {
		case text == "":
			return nil
		case !found || !slices.Contains(schemes, scheme):
			return allowed
		case scheme == "sqlite":
			if rest == "" || strings.ContainsAny(rest, "?#\x00") {
				return errors.New(`must name a file after sqlite://, without "?" or "#", like "sqlite://data/threadhub.db"`)
			}
			return nil
		}
		u, err := url.Parse(text)
		if err != nil { // its text repeats the URL, and with it the password
			return errors.New("is not a URL; is a character of the password not escaped (%40 for @, %2F for /)?")
		}
		if u.Host == "" && u.Query().Get("host") == "" {
			return errors.New("must name a host after " + scheme + "://")
		}
		return nil
	})
}

// sealing is a list of encryption keys in the format of a Fernet key. Empty: not set.
func sealing(path, about string, field *seal.Secret) setting {
	return hidden(path, about, field, func(text string) error {
		if text == "" {
			return nil
		}
		if _, err := seal.ParseKeyring(text); err != nil { // its errors hold nothing of the keys
			return fmt.Errorf("must be %d bytes in url-safe base64 (44 characters), or several of those with commas between, but %s."+
				" Make one with: openssl rand -base64 32 | tr '+/' '-_'", seal.KeySize, strings.TrimPrefix(err.Error(), "seal: "))
		}
		return nil
	})
}

// passphrase is a secret of enough characters. Empty: not set.
func passphrase(path, about string, field *seal.Secret) setting {
	return hidden(path, about, field, func(text string) error {
		if text != "" && len(text) < minSecretKey {
			return fmt.Errorf("must have at least %d characters. Make one with: openssl rand -base64 48", minSecretKey)
		}
		return nil
	})
}

// token is a provider's key as it goes into a header. Empty: not set.
func token(path, about string, field *seal.Secret) setting {
	return hidden(path, about, field, func(text string) error {
		if strings.ContainsFunc(text, notGraphic) {
			return errors.New("must be printable ASCII without spaces")
		}
		return nil
	})
}

func model(path, about string, field *string) setting {
	return plain(path, about, field, func(text string) error {
		if text == "" || len(text) > 256 || strings.ContainsFunc(text, notGraphic) {
			return errors.New("must be 1 to 256 characters of printable ASCII without spaces")
		}
		return nil
	})
}

// price is an amount of dollars for a million tokens, never nothing.
func price(path, about string, field *string) setting {
	return plain(path, about, field, func(text string) error {
		if !prices.MatchString(text) || strings.Trim(text, "0.") == "" {
			return errors.New(`must be dollars for a million tokens, from 0.000001 to 9999, like "10" or "0.25"`)
		}
		return nil
	})
}

var prices = regexp.MustCompile(`^[0-9]{1,4}(\.[0-9]{1,6})?$`)

// header is what goes into a header. Empty: not set.
func header(path, about string, field *string) setting {
	return plain(path, about, field, func(text string) error {
		if len(text) > 256 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
			return errors.New("must be at most 256 characters of printable ASCII")
		}
		return nil
	})
}

func notGraphic(r rune) bool { return r <= ' ' || r > '~' }

// baseURL is the root of a provider's API. A slash at its end is dropped.
func baseURL(path, about string, field *string) setting {
	s := plain(path, about, field, func(text string) error {
		u, err := url.Parse(text)
		switch {
		case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "":
			return errHidden{`must be a URL like "https://api.example.com/v1"`}
		case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
			return errHidden{"must be a URL without a user, a query or a fragment"}
		}
		return nil
	})
	set := s.parse
	s.parse = func(text string) error { return set(strings.TrimRight(text, "/")) }
	return s
}

// errHidden is a problem whose value is not repeated, as it may hold a password.
type errHidden struct{ text string }

func (e errHidden) Error() string { return e.text }

func duration(path, about string, field *time.Duration, least, most time.Duration) setting {
	s := setting{path: path, about: about}
	s.text = func() string { return brief(*field) }
	s.parse = func(text string) error {
		d, err := time.ParseDuration(text)
		if err != nil || d < least || d > most {
			return fmt.Errorf(`must be a duration with a unit, from %s to %s, like "10s" or "250ms"`, brief(least), brief(most))
		}
		*field = d
		return nil
	}
	return s
}

// brief writes d as an operator would: 2m, not 2m0s.
func brief(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

var units = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}}

func byteCount(path, about string, field *int64, least, most int64) setting {
	s := setting{path: path, about: about}
	s.text = func() string { return size(*field) }
	s.parse = func(text string) error {
		for _, unit := range units {
			digits, found := strings.CutSuffix(text, unit.name)
			if !found {
				continue
			}
			n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
			if err != nil || n < 0 || n > most/unit.bytes || n*unit.bytes < least {
				break
			}
			*field = n * unit.bytes
			return nil
		}
		return fmt.Errorf(`must be a number of bytes from %s to %s, like "20MiB" or "20971520"`, size(least), size(most))
	}
	return s
}

func size(n int64) string {
	for _, unit := range units {
		if n >= unit.bytes && n%unit.bytes == 0 {
			return strconv.FormatInt(n/unit.bytes, 10) + unit.name
		}
	}
	return strconv.FormatInt(n, 10)
}

func count(path, about string, field *int64, least, most int64) setting {
	s := setting{path: path, about: about}
	s.text = func() string { return strconv.FormatInt(*field, 10) }
	s.parse = func(text string) error {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < least || n > most {
			return fmt.Errorf("must be a whole number from %d to %d", least, most)
		}
		*field = n
		return nil
	}
	return s
}

func boolean(path, about string, field *bool) setting {
	s := setting{path: path, about: about, yesNo: true}
	s.text = func() string { return strconv.FormatBool(*field) }
	s.parse = func(text string) error {
		if text != "true" && text != "false" {
			return errors.New("must be true or false")
		}
		*field = text == "true"
		return nil
	}
	return s
}

func choice(path, about string, field *string, allowed ...string) setting {
	return plain(path, about, field, func(text string) error {
		if !slices.Contains(allowed, text) {
			return errors.New("must be " + either(allowed, "%s"))
		}
		return nil
	})
}

// either joins words with commas and "or", each put into form.
func either(words []string, form string) string {
	parts := make([]string, len(words))
	for i, w := range words {
		parts[i] = fmt.Sprintf(form, w)
	}
	if last := len(parts) - 1; last > 0 {
		return strings.Join(parts[:last], ", ") + " or " + parts[last]
	}
	return strings.Join(parts, "")
}
