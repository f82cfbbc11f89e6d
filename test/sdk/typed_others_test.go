package sdk

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/tidwall/gjson"

	"threadhub/test/rig"
)

// typedOthers are the jobs of TestTypedResults that are no chats: embeddings, in the encoding that was recorded and, where
// that is base64, in the SDK's own choice; and models, of which the gateway has those of all providers and more.
func typedOthers(t *testing.T, replay *rig.Replay, url, key string) (jobs []typedJob) {
	for _, provider := range []string{"openai", "openrouter"} {
		pair := func(j typedJob, model string) {
			direct, via := j, j
			direct.BaseURL, direct.Key, direct.Body.Model = replay.URL(provider), "sk-direct", model
			via.BaseURL, via.Key, via.Body.Model = url, key, provider+"/"+model
			via.Body.Prefix = provider + "/"
			jobs = append(jobs, direct, via)
		}
		records := rig.Recorded(t, provider, "embeddings")
		for _, name := range slices.Sorted(maps.Keys(records)) {
			record := records[name]
			replay.Put(name, record)
			var input []string
			for range gjson.Get(record.Body, "data.#").Int() {
				input = append(input, "some text")
			}
			encodings := []string{"float"}
			if gjson.Get(record.Body, "data.0.embedding").Type == gjson.String {
				encodings = []string{"base64", ""}
			}
			for _, encoding := range encodings {
				pair(typedJob{record: name, Kind: "embeddings", Body: typedAsks{Input: input, Encoding: encoding, User: rig.Play(name)}}, embedders[provider].model)
			}
		}
		list := rig.Recorded(t, provider, "check")[provider+"/check/models.resp.json"]
		replay.Put(provider+"/models", list)
		var names []string
		for _, m := range gjson.Get(list.Body, "data").Array() {
			names = append(names, m.Get("id").Str)
			replay.Put(provider+"/models/"+m.Get("id").Str, rig.Whole(m.Raw))
		}
		pair(typedJob{record: provider + "/models", Kind: "models", Body: typedAsks{Names: names}}, "")
	}
	return jobs
}

// goTypedOther does one of them with the Go SDK.
func goTypedOther(t *testing.T, client openai.Client, j typedJob, out flat) {
	t.Helper()
	if j.Kind == "embeddings" {
		e, err := client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{
			Model: j.Body.Model, Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: j.Body.Input},
			EncodingFormat: openai.EmbeddingNewParamsEncodingFormat(j.Body.Encoding), User: openai.String(j.Body.User),
		})
		if err == nil {
			out.add("embeddings", reflect.ValueOf(*e))
		}
		out.err(err)
		return
	}
	list, err := client.Models.List(t.Context())
	if err != nil {
		out.err(err)
		return
	}
	for _, m := range list.Data {
		name := m.ID
		if !slices.Contains(j.Body.Names, name) {
			name = strings.TrimPrefix(name, j.Body.Prefix)
		}
		if slices.Contains(j.Body.Names, name) {
			out.add("models["+name+"]", reflect.ValueOf(m))
		}
	}
	for _, name := range j.Body.Names {
		full := name
		if !strings.HasPrefix(name, j.Body.Prefix) {
			full = j.Body.Prefix + name
		}
		m, err := client.Models.Get(t.Context(), full)
		if err != nil {
			out.err(err)
			return
		}
		out.add("model["+name+"]", reflect.ValueOf(*m))
	}
}
