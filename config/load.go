package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
)

// maxFile is the largest settings file, in bytes: far more than anybody writes, far less than what would hurt.
const maxFile = 1 << 20

// Options says where Load looks. The zero value gives the defaults.
type Options struct {
	File    string   // YAML file; "" for none. One that is named must be there
	Env     []string // as os.Environ returns it; an empty value is like none
	Flags   *Flags   // parsed flags; may be nil
	Samples bool     // accept the sample secrets of example.yaml: for the demo only
}

// Flags holds what was given on the command line. Make one with Register.
type Flags struct {
	file   string
	values map[string]string // by path
}

// Register declares --config and a flag for every setting that is not a secret in fs. Values are judged by Load, so
// that all problems are reported together.
func Register(fs *flag.FlagSet) *Flags {
	f := &Flags{values: map[string]string{}}
	fs.StringVar(&f.file, "config", "", "YAML `file` with settings")
	for _, s := range settings(Default()) {
		if s.flag != "" {
			fs.Var(flagValue{f.values, s.path, s.text(), s.yesNo}, s.flag, s.about)
		}
	}
	return f
}

// File returns what was given with --config.
func (f *Flags) File() string { return f.file }

// flagValue is one setting as package flag sees it.
type flagValue struct {
	values      map[string]string
	path, usual string
	yesNo       bool
}

func (v flagValue) String() string        { return v.usual }
func (v flagValue) Set(text string) error { v.values[v.path] = text; return nil }
func (v flagValue) IsBoolFlag() bool      { return v.yesNo }

// layer is one place where settings were written.
type layer struct {
	values map[string]any    // by path, always text
	names  map[string]string // by path: the setting as the operator wrote it
}

func newLayer() layer { return layer{values: map[string]any{}, names: map[string]string{}} }

func (l layer) set(path, name, text string) { l.values[path], l.names[path] = text, name }

// Load reads the file, the environment and the flags over the defaults, each overriding the one before. An error is a
// *Problems that tells everything wrong at once.
func Load(o Options) (*Config, error) {
	c := Default()
	all := settings(c)
	var problems Problems

	merged, names := koanf.New("."), map[string]string{}
	for _, l := range []layer{
		defaults(all),
		readFile(o.File, all, &problems),
		readEnv(o.Env, all, &problems),
		readFlags(o.Flags, all),
	} {
		if err := merged.Load(confmap.Provider(l.values, "."), nil); err != nil {
			return nil, err // a map in memory does not fail
		}
		for path, name := range l.names {
			names[path] = name
		}
	}
	for _, s := range all {
		if name, written := names[s.path]; written {
			problems.addIf(s, name, merged.String(s.path))
		}
	}
	c.check(names, o.Samples, &problems)
	if err := problems.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// addIf parses text into the setting and adds what is wrong with it.
func (p *Problems) addIf(s setting, name, text string) {
	err := s.parse(text)
	var hide errHidden
	switch {
	case err == nil:
	case s.secret || errors.As(err, &hide):
		p.addf("%s %v", name, err)
	default:
		p.addf("%s is %s: it %v", name, shown(text), err)
	}
}

func defaults(all []setting) layer {
	l := newLayer()
	for _, s := range all {
		l.values[s.path] = s.text()
	}
	return l
}

func readFlags(f *Flags, all []setting) layer {
	l := newLayer()
	if f == nil {
		return l
	}
	for _, s := range all {
		if text, ok := f.values[s.path]; ok {
			l.set(s.path, "--"+s.flag, text)
		}
	}
	return l
}

// foreign are variables with our prefix that are not settings: what Kubernetes puts into every container beside a
// Service named threadhub, and what the tests are told.
var foreign = regexp.MustCompile(`^THREADHUB_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?|SOAK|TEST_.+)$`)

func readEnv(environ []string, all []setting, problems *Problems) layer {
	l := newLayer()
	byName := map[string]setting{}
	known := make([]string, len(all))
	for i, s := range all {
		byName[s.env], known[i] = s, s.env
	}
	for _, entry := range environ {
		name, text, _ := strings.Cut(entry, "=")
		if s, ok := byName[name]; ok {
			if text != "" {
				l.set(s.path, name, text)
			}
			continue
		}
		if text != "" && strings.HasPrefix(name, envPrefix) && !foreign.MatchString(name) {
			problems.addf("%s is not a setting%s", shown(name), suggestion(near(name, known, envPrefix)))
		}
	}
	return l
}

func readFile(path string, all []setting, problems *Problems) layer {
	l := newLayer()
	if path == "" {
		return l
	}
	text, err := readAll(path)
	if err != nil {
		problems.addf("--config names %s, which cannot be read: %v", shown(path), reason(err))
		return l
	}
	return parseFile(text, path, all, problems)
}

func readAll(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("it is larger than %s", size(maxFile))
	}
	return text, err
}

// reason is err without the path, which the sentence names already.
func reason(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}

var yamlLine = regexp.MustCompile(`line (\d+)`)

// parseFile reads the text of the settings file at path. What the YAML reader says is not repeated but for its line: it
// quotes the file, and with it secrets.
func parseFile(text []byte, path string, all []setting, problems *Problems) layer {
	l := newLayer()
	tree, err := yaml.Parser().Unmarshal(text)
	if err != nil {
		where := ""
		if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
			where = " near line " + m[1]
		}
		problems.addf("%s is not a YAML file of settings%s: look for a name that is there twice, a tab, or wrong indentation", shown(path), where)
		return l
	}
	known := make([]string, len(all))
	for i, s := range all {
		known[i] = s.path
	}
	walk(tree, "", 0, func(at string, value any) {
		name := shown(at) + " in " + shown(path)
		_, twice := l.names[at]
		switch settingsBelow := below(at, known); {
		case len(settingsBelow) > 0 && value != nil: // "timeouts:" and nothing after it does no harm
			problems.addf("%s has settings below it and no value of its own: %s", name, either(settingsBelow, "%s"))
		case len(settingsBelow) > 0:
		case !slices.Contains(known, at):
			problems.addf("%s is not a setting%s", name, suggestion(near(at, known, "")))
		case twice:
			problems.addf("%s is there twice", name)
		case isList(value):
			problems.addf("%s must be one value, not a list", name)
		default:
			if text := scalar(value); text != "" {
				l.set(at, name, text)
			}
		}
	})
	return l
}

func isList(value any) bool { _, list := value.([]any); return list }

// maxDepth is deeper than any setting is: what lies below is not looked at.
const maxDepth = 4

// walk calls each for every value of the tree that is not a section, in no order.
func walk(node any, at string, depth int, each func(at string, value any)) {
	visit := func(key string, value any) {
		if at != "" {
			key = at + "." + key
		}
		walk(value, key, depth+1, each)
	}
	switch node := node.(type) {
	case map[string]any:
		if depth < maxDepth {
			for key, value := range node {
				visit(key, value)
			}
			return
		}
	case map[any]any: // names that are not text: 1, true, null
		if depth < maxDepth {
			for key, value := range node {
				visit(fmt.Sprint(key), value)
			}
			return
		}
	}
	if at != "" {
		each(at, node)
	}
}

// scalar is a YAML value as the operator would have written it in the environment; empty is like not written.
func scalar(value any) string {
	switch value := value.(type) {
	case nil: // "redis_url:" and nothing after it
		return ""
	case string:
		return value
	case float64:
		return strconv.FormatFloat(value, 'f', -1, 64)
	default:
		return fmt.Sprint(value)
	}
}

// below returns the settings in the section at.
func below(at string, known []string) []string {
	var found []string
	for _, name := range known {
		if strings.HasPrefix(name, at+".") {
			found = append(found, name)
		}
	}
	return found
}
