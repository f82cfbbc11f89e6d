package metering

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sort"
	"strings"
)

//go:embed prices.json
var embedded []byte

// Catalogue is the models we know and what they cost. It never changes; safe for concurrent use.
type Catalogue struct {
	version string
	models  map[string]map[string]Model // by provider, then id
	ids     map[string][]string         // by provider, sorted
	short   map[string]map[string]string
}

// Model is one model as one provider sells it.
type Model struct {
	Provider  string
	ID        string             // the provider's own name for it
	Window    int64              // most tokens in and out together; 0: not known
	MaxOutput int64              // most tokens out; 0: not known
	Prices    Prices             // of a usual request
	LongAbove int64              // with more prompt tokens than this Long prices the whole request; 0: never
	Long      Prices             //
	Request   PicoUSD            // for each call, whatever its tokens
	Search    PicoUSD            // for each search of the web
	Searched  PicoUSD            // for a call that searched, however often
	Fees      map[string]PicoUSD // other fees by the provider's name for them; Cost holds none, as usage does not count them
}

// Prices are pico-dollars per token, which is the same number as micro-dollars per million tokens. The zero Prices are
// no prices at all.
type Prices struct {
	known      bool // there is a price for input
	output     bool // and one for output: embedding models have none
	Input      PicoUSD
	Cached     PicoUSD // cache reads; what is not listed apart costs as input
	CacheWrite PicoUSD // likewise
	Output     PicoUSD
	Reasoning  PicoUSD // as output, unless the provider lists it apart

	AudioInput, AudioOutput, ImageOutput PicoUSD // likewise: as input, and as output
}

// Priced reports whether the catalogue knows what m costs.
func (m Model) Priced() bool { return m.Prices.known }

// Embeds reports whether m is known to make embeddings: it is paid for what it reads, and writes nothing.
func (m Model) Embeds() bool { return m.Prices.known && !m.Prices.output }

// Embedded returns the catalogue that is built in.
func Embedded() (*Catalogue, error) { return ParseCatalogue(embedded) }

// row is a model in prices.json. Prices are micro-dollars per million tokens, fees micro-dollars.
type row struct {
	Provider  string `json:"provider"`
	ID        string `json:"id"`
	Window    int64  `json:"window"`
	MaxOutput int64  `json:"max_output"`
	list
	Long *struct {
		Above int64 `json:"above"`
		list
	} `json:"long"`
	Fees map[string]int64 `json:"fees"`
}

type list struct {
	Input      *int64 `json:"input"`
	Cached     *int64 `json:"cached"`
	CacheWrite *int64 `json:"cache_write"`
	Output     *int64 `json:"output"`
	Reasoning  *int64 `json:"reasoning"`

	AudioInput  *int64 `json:"audio_input"`
	AudioOutput *int64 `json:"audio_output"`
	ImageOutput *int64 `json:"image_output"`
}

// ParseCatalogue reads a catalogue in the form of prices.json. Its version is the file's date and a hash of its bytes.
func ParseCatalogue(data []byte) (*Catalogue, error) {
	var file struct {
		AsOf   string `json:"as_of"`
		Models []row  `json:"models"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("metering: catalogue: %w", err)
	}
	sum := sha256.Sum256(data)
	c := &Catalogue{
		version: file.AsOf + "." + hex.EncodeToString(sum[:4]),
		models:  map[string]map[string]Model{},
		ids:     map[string][]string{},
		short:   map[string]map[string]string{},
	}
	for _, r := range file.Models {
		if err := c.add(r); err != nil {
			return nil, err
		}
	}
	for _, ids := range c.ids {
		sort.Strings(ids)
	}
	return c, nil
}

func (c *Catalogue) add(r row) error {
	if r.Provider == "" || r.ID == "" || r.Window < 0 || r.MaxOutput < 0 {
		return fmt.Errorf("metering: catalogue: a model without a name, or with a size below zero: %q %q", r.Provider, r.ID)
	}
	if c.models[r.Provider] == nil {
		c.models[r.Provider] = map[string]Model{}
		c.short[r.Provider] = map[string]string{}
	}
	if _, twice := c.models[r.Provider][r.ID]; twice {
		return fmt.Errorf("metering: catalogue: %s lists %s twice", r.Provider, r.ID)
	}
	m, err := r.model()
	if err != nil {
		return err
	}
	c.models[r.Provider][r.ID] = m
	c.ids[r.Provider] = append(c.ids[r.Provider], r.ID)
	if _, name, ok := strings.Cut(r.ID, "/"); ok {
		if _, taken := c.short[r.Provider][name]; taken {
			c.short[r.Provider][name] = "" // two vendors' models of one name: the short name says nothing
		} else {
			c.short[r.Provider][name] = r.ID
		}
	}
	return nil
}

// maxPrice is the most a token may cost, 10,000 dollars a million: a larger figure is a slip, and the bound keeps
// every product of a price and MaxTokens far inside a PicoUSD.
const maxPrice = 10_000_000_000

func (r row) model() (Model, error) {
	m := Model{Provider: r.Provider, ID: r.ID, Window: r.Window, MaxOutput: r.MaxOutput}
	var ok bool
	if m.Prices, ok = r.prices(); !ok {
		return m, fmt.Errorf("metering: catalogue: %s %s has a price out of range", r.Provider, r.ID)
	}
	if r.Long != nil {
		m.LongAbove = r.Long.Above
		if m.Long, ok = r.Long.prices(); !ok || m.LongAbove <= 0 || !m.Long.known {
			return m, fmt.Errorf("metering: catalogue: %s %s has wrong long-context prices", r.Provider, r.ID)
		}
	}
	for name, micro := range r.Fees {
		if micro < 0 || micro > maxPrice {
			return m, fmt.Errorf("metering: catalogue: %s %s has a fee out of range", r.Provider, r.ID)
		}
		fee := PicoUSD(micro) * picoMicro
		switch name {
		case "request", "request_low": // what every call pays at least; usage does not tell a higher grade
			m.Request = fee
		case "google_search_query", "search_query", "web_search", "web_search_call":
			m.Search = fee
		case "google_search_request":
			m.Searched = fee
		default:
			if m.Fees == nil {
				m.Fees = map[string]PicoUSD{}
			}
			m.Fees[name] = fee
		}
	}
	return m, nil
}

func (l list) prices() (p Prices, ok bool) {
	ok = true
	pick := func(v *int64, otherwise PicoUSD) PicoUSD {
		if v == nil {
			return otherwise
		}
		ok = ok && *v >= 0 && *v <= maxPrice
		return PicoUSD(*v)
	}
	p.known, p.output = l.Input != nil, l.Output != nil
	p.Input = pick(l.Input, 0)
	p.Cached = pick(l.Cached, p.Input)
	p.CacheWrite = pick(l.CacheWrite, p.Input)
	p.Output = pick(l.Output, 0)
	p.Reasoning = pick(l.Reasoning, p.Output)
	p.AudioInput = pick(l.AudioInput, p.Input)
	p.AudioOutput = pick(l.AudioOutput, p.Output)
	p.ImageOutput = pick(l.ImageOutput, p.Output)
	return p, ok
}

// Version names this catalogue on every ledger line priced by it: "2026-11.1a2b3c4d".
func (c *Catalogue) Version() string { return c.version }

// Lookup returns the model that provider calls id. Google's own lists have "models/" before their names, and asked for so
// they cost the same.
func (c *Catalogue) Lookup(provider, id string) (Model, bool) {
	if provider == "gemini" {
		id = strings.TrimPrefix(id, "models/")
	}
	m, ok := c.models[provider][id]
	return m, ok
}

// Lists reports whether provider has a model of exactly this name.
func (c *Catalogue) Lists(provider, id string) bool {
	_, ok := c.models[provider][id]
	return ok
}

// Find returns provider's own name for the model that others call name: name itself, or the one id it lists as
// vendor/name.
func (c *Catalogue) Find(provider, name string) (id string, ok bool) {
	if c.Lists(provider, name) {
		return name, true
	}
	id = c.short[provider][name]
	return id, id != ""
}

// IDs returns provider's models, sorted. The caller must not change them.
func (c *Catalogue) IDs(provider string) []string { return c.ids[provider] }
