package simulator

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// geminiMessages are the messages of a request and their members, name:type. A type is one of the scalars, Struct (an
// object), Value (anything), an enum, another message, or a list of one of these: [Part].
var geminiMessages = readMessages(map[string]string{
	"GenerateContentRequest": "model:string contents:[Content] systemInstruction:Content tools:[Tool] toolConfig:ToolConfig " +
		"safetySettings:[SafetySetting] generationConfig:GenerationConfig cachedContent:string serviceTier:ServiceTier store:bool " +
		"continuationToken:string labels:Struct",
	"BatchEmbedContentsRequest": "requests:[EmbedContentRequest]",
	"EmbedContentRequest":       "model:string content:Content taskType:TaskType title:string outputDimensionality:int",
	"CountTokensRequest":        "contents:[Content] generateContentRequest:GenerateContentRequest",
	"Content":                   "role:string parts:[Part]",
	"Part": "text:string inlineData:Blob fileData:FileData functionCall:FunctionCall functionResponse:FunctionResponse " +
		"executableCode:ExecutableCode codeExecutionResult:CodeExecutionResult toolCall:ToolCall toolResponse:ToolResponse " +
		"thought:bool thoughtSignature:bytes videoMetadata:VideoMetadata mediaResolution:PartResolution partMetadata:Struct",
	"Blob":                 "mimeType:string data:bytes",
	"FileData":             "mimeType:string fileUri:string",
	"FunctionCall":         "id:string name:string args:Struct",
	"FunctionResponse":     "id:string name:string response:Struct parts:[FunctionResponsePart] willContinue:bool scheduling:string",
	"FunctionResponsePart": "inlineData:Blob fileData:FileData",
	"ExecutableCode":       "id:string language:string code:string",
	"CodeExecutionResult":  "id:string outcome:string output:string",
	"ToolCall":             "id:string toolType:string args:Struct",
	"ToolResponse":         "id:string toolType:string response:Struct",
	"VideoMetadata":        "startOffset:string endOffset:string fps:number",
	"PartResolution":       "level:string numTokens:int",
	"Tool": "functionDeclarations:[FunctionDeclaration] googleSearch:GoogleSearch urlContext:Empty codeExecution:Empty fileSearch:Struct " +
		"googleMaps:Struct computerUse:Struct",
	"GoogleSearch": "timeRangeFilter:Struct searchTypes:Struct",
	"Empty":        "",
	"FunctionDeclaration": "name:string description:string parameters:Schema parametersJsonSchema:Value response:Schema " +
		"responseJsonSchema:Value behavior:string",
	"ToolConfig":            "functionCallingConfig:FunctionCallingConfig includeServerSideToolInvocations:bool retrievalConfig:Struct",
	"FunctionCallingConfig": "mode:Mode allowedFunctionNames:[string]",
	"SafetySetting":         "category:string threshold:string",
	"GenerationConfig": "temperature:number topP:number topK:number candidateCount:int maxOutputTokens:int stopSequences:[string] seed:int " +
		"presencePenalty:number frequencyPenalty:number responseLogprobs:bool logprobs:int responseMimeType:string responseSchema:Schema " +
		"responseJsonSchema:Value responseModalities:[string] speechConfig:Struct imageConfig:Struct mediaResolution:string " +
		"thinkingConfig:ThinkingConfig enableEnhancedCivicAnswers:bool",
	"ThinkingConfig": "includeThoughts:bool thinkingBudget:int thinkingLevel:ThinkingLevel",
	"Schema": "type:string format:string title:string description:string nullable:bool enum:[string] items:Schema maxItems:int minItems:int " +
		"properties:Schemas required:[string] minProperties:int maxProperties:int minLength:int maxLength:int pattern:string example:Value " +
		"anyOf:[Schema] propertyOrdering:[string] default:Value minimum:number maximum:number",
})

// geminiEnums are the words an enum may be.
var geminiEnums = map[string][]string{
	"Mode":        {"MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED"},
	"ServiceTier": {"unspecified", "standard", "flex", "priority"},
	"TaskType": {
		"TASK_TYPE_UNSPECIFIED", "RETRIEVAL_QUERY", "RETRIEVAL_DOCUMENT", "SEMANTIC_SIMILARITY", "CLASSIFICATION", "CLUSTERING",
		"QUESTION_ANSWERING", "FACT_VERIFICATION", "CODE_RETRIEVAL_QUERY",
	},
	"ThinkingLevel": {"THINKING_LEVEL_UNSPECIFIED", "MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH"},
}

func readMessages(text map[string]string) map[string]map[string]string {
	all := make(map[string]map[string]string, len(text))
	for name, members := range text {
		m := map[string]string{}
		for _, f := range strings.Fields(members) {
			key, kind, _ := strings.Cut(f, ":")
			m[key] = kind
		}
		all[name] = m
	}
	return all
}

// camel and snake are the two spellings of a member; both are taken, and errors use the second.
func camel(name string) string {
	parts := strings.Split(name, "_")
	for i, p := range parts[1:] {
		if p != "" {
			parts[i+1] = strings.ToUpper(p[:1]) + p[1:]
		}
	}
	return strings.Join(parts, "")
}

var capital = regexp.MustCompile("[A-Z]")

func snake(name string) string {
	return capital.ReplaceAllStringFunc(name, func(c string) string { return "_" + strings.ToLower(c) })
}

// get is a member of a message in either spelling; null counts as absent.
func get(v gjson.Result, names ...string) gjson.Result {
	for _, name := range names {
		found := v.Get(name)
		if !found.Exists() {
			found = v.Get(snake(name))
		}
		if v = found; v.Type == gjson.Null {
			return gjson.Result{}
		}
	}
	return v
}

// violation is one thing wrong with a request, and where.
type violation struct{ field, description string }

// against checks a value against a message of the table and appends what is wrong, in Google's words. at is the path in
// snake case; "" is the whole request.
func against(list []violation, v gjson.Result, kind, at string) []violation {
	wrong := func(name, shown string) []violation {
		return append(list, violation{at, fmt.Sprintf("Invalid value at '%s' (%s), %s", at, name, shown)})
	}
	if item, ok := strings.CutPrefix(kind, "["); ok {
		item = strings.TrimSuffix(item, "]")
		if v.Type == gjson.Null {
			return list
		}
		if !v.IsArray() {
			if geminiMessages[item] != nil && v.IsObject() { // a single message where a list was meant
				return against(list, v, item, at)
			}
			return wrong(scalarName(item), v.Raw)
		}
		for i, one := range v.Array() {
			list = against(list, one, item, at+"["+strconv.Itoa(i)+"]")
		}
		return list
	}
	if v.Type == gjson.Null {
		return list
	}
	switch kind {
	case "Value":
	case "Struct":
		if !v.IsObject() {
			return wrong("type.googleapis.com/google.protobuf.Struct", v.Raw)
		}
	case "Schemas":
		if !v.IsObject() {
			return wrong("map", v.Raw)
		}
		n := 0
		v.ForEach(func(_, one gjson.Result) bool {
			list = against(list, one, "Schema", at+"["+strconv.Itoa(n)+"].value")
			n++
			return true
		})
	case "string":
		if v.Type != gjson.String {
			return wrong(scalarName(kind), v.Raw)
		}
	case "bool":
		if !v.IsBool() {
			return wrong(scalarName(kind), v.Raw)
		}
	case "bytes":
		if v.Type != gjson.String {
			return wrong(scalarName(kind), v.Raw)
		}
		if _, err := bytesOf(v.Str); err != nil {
			return wrong(scalarName(kind), "Base64 decoding failed for "+v.Raw)
		}
	case "number", "int":
		n, err := v.Num, error(nil)
		if v.Type == gjson.String { // a number in quotes is one
			n, err = strconv.ParseFloat(v.Str, 64)
		}
		if err != nil || v.Type != gjson.Number && v.Type != gjson.String || kind == "int" && n != float64(int32(n)) {
			return wrong(scalarName(kind), v.Raw)
		}
	default:
		if words := geminiEnums[kind]; words != nil {
			word := v.Str
			if kind == "ThinkingLevel" { // in lower case too
				word = strings.ToUpper(word)
			}
			if v.Type != gjson.String || !slices.Contains(words, word) {
				return wrong("type.googleapis.com/google.ai.generativelanguage.v1beta."+kind, v.Raw)
			}
			return list
		}
		members := geminiMessages[kind]
		if !v.IsObject() {
			return wrong("type.googleapis.com/google.ai.generativelanguage.v1beta."+kind, v.Raw)
		}
		v.ForEach(func(k, one gjson.Result) bool {
			name := camel(k.Str)
			if members[name] == "" {
				list = append(list, unknownName(k.Str, at))
				return true
			}
			where := snake(name)
			if at != "" {
				where = at + "." + where
			}
			list = against(list, one, members[name], where)
			return true
		})
	}
	return list
}

func unknownName(name, at string) violation {
	if at == "" {
		return violation{at, fmt.Sprintf("Invalid JSON payload received. Unknown name %q: Cannot find field.", name)}
	}
	return violation{at, fmt.Sprintf("Invalid JSON payload received. Unknown name %q at '%s': Cannot find field.", name, at)}
}

func scalarName(kind string) string {
	switch kind {
	case "string", "bool", "bytes":
		return "TYPE_" + strings.ToUpper(kind)
	case "number":
		return "TYPE_FLOAT"
	case "int":
		return "TYPE_INT32"
	}
	return "type.googleapis.com/google.ai.generativelanguage.v1beta." + kind
}

// bytesOf reads base64 in either alphabet, with or without padding.
func bytesOf(s string) ([]byte, error) {
	s = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(s, "="))
	return base64.RawStdEncoding.DecodeString(s)
}

// schemaWords is the part of JSON Schema that Gemini takes.
var schemaWords = set("$id", "$defs", "$ref", "$anchor", "type", "format", "title", "description", "enum", "items", "prefixItems",
	"minItems", "maxItems", "minimum", "maximum", "anyOf", "oneOf", "properties", "additionalProperties", "required",
	"propertyOrdering", "default")

// outside names the first keyword of a JSON Schema that Gemini does not take, with its path; "" if there is none.
func outside(schema gjson.Result, at string, depth int) string {
	if depth > 4*maxDepth {
		return ""
	}
	if schema.IsBool() {
		return ""
	}
	if !schema.IsObject() {
		return at
	}
	found := ""
	schema.ForEach(func(k, v gjson.Result) bool {
		here := at + "." + k.Str
		switch {
		case !schemaWords[k.Str]:
			found = here
		case k.Str == "properties" || k.Str == "$defs":
			v.ForEach(func(name, one gjson.Result) bool {
				found = outside(one, here+"."+name.Str, depth+1)
				return found == ""
			})
		case k.Str == "items" || k.Str == "additionalProperties":
			found = outside(v, here, depth+1)
		case k.Str == "anyOf" || k.Str == "oneOf" || k.Str == "prefixItems":
			for i, one := range v.Array() {
				if found = outside(one, here+"["+strconv.Itoa(i)+"]", depth+1); found != "" {
					break
				}
			}
		}
		return found == ""
	})
	return found
}
