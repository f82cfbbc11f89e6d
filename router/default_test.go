package router

import (
	"slices"
	"strings"
	"testing"

	"threadhub/internal/fault"
)

var everybody = func(string) bool { return true }

func byDefault(t testing.TB) (*Router, *Policy) {
	t.Helper()
	p, err := DefaultPolicy()
	if err != nil {
		t.Fatal(err)
	}
	return New(Options{Catalogue: goods, Providers: all, DefaultModels: map[string]string{
		"openai": "gpt-5-mini", "gemini": "gemini-3.5-flash", "perplexity": "sonar", "openrouter": "openrouter/auto",
	}}), p
}

// What people say, and which of the default rules it meets. Nobody wrote these with the lists of words at hand.
var sayings = []struct{ message, rule string }{
	// English
	{"Any news on the chip shortage?", "news"},
	{"Give me this morning's headlines, please.", "news"},
	{"I need the latest figures on US unemployment", "news"},
	{"Will it rain in Oslo tomorrow? Check the forecast.", "news"},
	{"Please search for papers on coral bleaching", "news"},
	{"Can you look up the opening hours of the Prado?", "news"},
	{"Turn this table into JSON with one object per row", "structured"},
	{"Write a Python function that merges two sorted lists", "structured"},
	{"My code throws a nil pointer, can you help me", "structured"},
	{"Design a REST API for a small library", "structured"},
	{"Refactor this loop so that it does not allocate", "structured"},
	{"What is the boiling point of ethanol?", "question"},
	{"Who painted the ceiling of the Sistine Chapel", "question"},
	{"And why do cats purr?", "question"},
	{"Hi there! How do vaccines work?", "question"},
	{"Tell me a bedtime story about a fox", "other"},
	{"Translate 'good evening' into Danish", "other"},
	{"Summarise the text I pasted above in two sentences", "other"},
	// German
	{"Was gibt es Neues aus der Bundesliga?", "news"},
	{"Fass mir die neuesten Entwicklungen im Tarifstreit zusammen", "news"},
	{"Wie wird das Wetter am Wochenende in Kiel?", "news"},
	{"Recherchiere bitte günstige Zugverbindungen nach Prag", "news"},
	{"Schreib mir ein Skript, das Dateien nach Datum sortiert", "structured"},
	{"Erkläre mir diesen Quellcode Zeile für Zeile", "structured"},
	{"Warum ist der Himmel blau?", "question"},
	{"Wer hat die Glühbirne erfunden", "question"},
	{"Hallo, wie funktioniert eine Wärmepumpe?", "question"},
	{"Schreibe ein Gedicht über den Herbst", "other"},
	{"Formuliere die E-Mail etwas höflicher", "other"},
	// French
	{"Quelles sont les actualités de ce matin à Lyon ?", "news"},
	{"Donne-moi les dernières nouvelles du festival", "news"},
	{"Cherche sur internet un hôtel calme à Nantes", "news"},
	{"Écris une fonction en Rust qui inverse une chaîne", "structured"},
	{"Convertis ce tableau en CSV", "structured"},
	{"Pourquoi la mer est-elle salée ?", "question"},
	{"Combien d'habitants compte Marseille ?", "question"},
	{"Où se trouve le mont Ararat", "question"},
	{"Raconte une blague sur les boulangers", "other"},
	{"Corrige les fautes de ce paragraphe", "other"},
	// Spanish
	{"¿Qué noticias hay sobre el volcán de La Palma?", "news"},
	{"Resume las últimas decisiones del banco central", "news"},
	{"Busca vuelos baratos a Lima para junio", "news"},
	{"Escribe código en Java para leer un archivo", "structured"},
	{"Necesito una consulta SQL que agrupe por mes", "structured"},
	{"¿Cómo se hace una tortilla de patatas?", "question"},
	{"Hola, ¿dónde nació Cervantes?", "question"},
	{"¿Cuántos planetas tiene el sistema solar?", "question"},
	{"Escribe una carta de despedida para mi jefe", "other"},
	{"Traduce esta frase al alemán", "other"},
	// Chinese
	{"今天有什么关于航天的新闻吗", "news"},
	{"帮我搜索一下附近的图书馆", "news"},
	{"上海明天的天气", "news"},
	{"请写一段代码计算斐波那契数列", "structured"},
	{"把下面的内容转换成 JSON 格式", "structured"},
	{"为什么天空是蓝色的？", "question"},
	{"长城有多少公里？", "question"},
	{"给我讲一个睡前故事", "other"},
	{"把这句话翻译成法语", "other"},
	// Arabic
	{"أعطني آخر أخبار كرة القدم", "news"},
	{"ابحث عن مطاعم قريبة من الجامعة", "news"},
	{"اكتب كود لحساب المتوسط", "structured"},
	{"لماذا يطفو الجليد على الماء؟", "question"},
	{"كيف أتعلم العزف على العود؟", "question"},
	{"اكتب لي قصيدة عن البحر", "other"},
	{"ترجم هذه الجملة إلى الإسبانية", "other"},

	// What only looks like one of them.
	{"I had a latte with my aunt", "other"},
	{"The newspaper was founded in 1851, put that into the past tense", "other"},
	{"Researchers disagree; rewrite this in plain words", "other"},
	{"Describe a renewsed friendship", "other"},
	{"My uncle decoded ciphers in the war. Continue the tale.", "other"},
	{"I am somewhat tired, cheer me up", "other"},
	{"Somehow the cake failed. Console me.", "other"},
	{"The jasonite crystal is made up, describe it", "other"},
	{"Invite Whoopi to the party in one line", "other"},
	{"Der Besucher wartet im Flur, setze das in die Mehrzahl", "other"},
	{"Das Wiesel schläft. Reime weiter.", "other"},
	{"Sie wohnt in Wolfsburg, mach eine Frage daraus", "other"},
	{"Un nouvel ami arrive, écris la suite", "other"},
	{"La quiche est prête, fais une rime", "other"},
	{"El comodín ganó la partida, sigue el cuento", "other"},
	{"Mi tía Buscarons cocina bien, elogia su sopa", "other"},
	{"写一首关于友谊的短诗", "other"},
	{"اكتب تهنئة لصديقي بمناسبة زواجه", "other"},
}

func TestDefaultRules(t *testing.T) {
	r, p := byDefault(t)
	langs, misses := len(sayings), 0
	for _, s := range sayings {
		c, err := r.Choose(p, Input{Model: Auto, Message: s.message, Messages: 1}, everybody)
		if err != nil {
			t.Errorf("%s: %v", s.message, err)
			continue
		}
		if got := strings.TrimPrefix(c.Route.ID, "default."); got != s.rule {
			t.Errorf("%-70s %s, want %s", s.message, got, s.rule)
		}
		if s.rule == "other" {
			misses++
		}
	}
	if langs < 60 || misses < 15 {
		t.Errorf("only %d sayings, %d of them meeting none of the first four", langs, misses)
	}
}

func TestDefaultRulesBeyondWords(t *testing.T) {
	r, p := byDefault(t)
	for _, tt := range []struct {
		about, want string
		in          Input
		keys        string
	}{
		{"tools", "default.structured openai gpt-5-mini", Input{Message: "hello", Tools: true}, "openai openrouter"},
		{"a schema", "default.structured openai gpt-5-mini", Input{Message: "hello", ResponseFormat: "json_schema"}, "openai openrouter"},
		{"plain text asked for", "default.other openrouter openrouter/auto", Input{Message: "hello", ResponseFormat: "text"}, "openai openrouter"},
		{"ten messages", "default.other openrouter openrouter/auto", Input{Message: "hello", Messages: 10}, "gemini openrouter"},
		{"eleven messages", "default.long gemini gemini-3.5-flash", Input{Message: "hello", Messages: 11}, "gemini openrouter"},
		{"no key for the first choice", "default.question perplexity sonar", Input{Message: "What is JSON?"}, "perplexity"},
		{"only a key that no rule names first", "default.other openai gpt-5-mini", Input{Message: "hello"}, "openai"},
		{"nobody has a key", "provider_key_missing", Input{Message: "hello"}, ""},
	} {
		tt.in.Model = Auto
		c, err := r.Choose(p, tt.in, keys(tt.keys))
		got := describe(c, err)
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.about, got, tt.want)
		}
	}
	c, err := r.Choose(p, Input{Model: Auto, Message: "hello"}, keys("openai"))
	if err != nil || c.Route.Reason != "nothing else fits (there is no key for openrouter)" {
		t.Errorf("%+v %v", c.Route, err)
	}
	c, err = r.Choose(p, Input{Model: Auto, Message: "Any news?"}, keys("openrouter"))
	if err != nil || c.Route.ID != "default.other" || !strings.Contains(c.Route.Reason, "default.news would have been used, but there is no key for perplexity") {
		t.Errorf("%+v %v", c.Route, err)
	}
	if why := c.Skipped[slices.IndexFunc(c.Skipped, func(s Skipped) bool { return s.Rule == "default.structured" })].Why; why != "its condition does not hold" {
		t.Errorf("structured was passed over because %s", why)
	}
}

func describe(c Choice, err error) string {
	if err != nil {
		return fault.From(err).Code
	}
	return c.Route.ID + " " + c.Targets[0].Provider + " " + c.Targets[0].Model
}
