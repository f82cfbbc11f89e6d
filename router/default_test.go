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

	// What is new, and what is only called so. A search, and what only speaks of one.
	{"What's new with the Mars rover?", "news"},
	{"Show me latest phone releases", "news"},
	{"What is the latest stable version of Node?", "news"},
	{"I'd like you to search for flights to Rome in May", "news"},
	{"Tell me the weather in Lisbon", "news"},
	{"I need the current price of copper", "news"},
	{"Recent developments in fusion energy, please", "news"},
	{"Good news! But is there any news on the strike?", "news"},
	{"Write a slogan for a shop of new shoes", "other"},
	{"Draft a newsletter template for our gym", "other"},
	{"A current of 2 A flows in a circuit; put that into a word problem", "other"},
	{"Proofread my latest essay", "other"},
	{"I have good news for the team, phrase it nicely", "other"},
	{"She felt under the weather all week. Continue the story.", "other"},
	{"Write five headlines for my bakery", "other"},
	{"Put our sales forecast into friendlier words", "other"},
	{"Today's lesson is about fractions; write three exercises", "other"},
	{"Write a cover letter for my job search", "other"},
	{"Look up at the stars, she said. Continue.", "other"},
	{"weather Berlin tomorrow", "news"},
	{"search the web for cheap tents", "news"},
	{"The weather was awful, so we left. Continue.", "other"},
	{"Currently reading Proust; give me a witty caption", "other"},
	{"Wetter Hamburg", "news"},
	{"Meine neue Stelle beginnt morgen, schreib einen Toast", "other"},
	{"Cherche un plombier à Lille", "news"},
	{"搜索便宜的机票", "news"},
	{"我的新工作很有趣，写一段日记", "other"},
	{"عندي وظيفة جديدة، اكتب رسالة شكر", "other"},
	{"Write an essay on kindness on the internet", "other"},
	{"Zeig mir die aktuellen Spritpreise", "news"},
	{"Such mir ein Hotel am Gardasee", "news"},
	{"Google mal, bis wann Ikea offen hat", "news"},
	{"Schreibe eine Nachricht an meine Chefin", "other"},
	{"Aktuell wohne ich in Bremen, formuliere daraus einen Lebenslauf", "other"},
	{"Neue Schuhe drücken, schreib eine Beschwerde", "other"},
	{"Schreibe einen Aufsatz über Mobbing im Internet", "other"},
	{"Ein Newsletter für unseren Verein, bitte als Entwurf", "other"},
	{"Gute Nachrichten: Wir haben gewonnen! Mach daraus eine Rede", "other"},
	{"Résume l'actualité de la semaine", "news"},
	{"Quoi de neuf à Bruxelles ?", "news"},
	{"Les derniers résultats de la Ligue 1", "news"},
	{"J'ai acheté de nouvelles chaussures, écris une légende", "other"},
	{"Ma dernière volonté, en alexandrins", "other"},
	{"Rédige un message pour ma grand-mère", "other"},
	{"Écris un essai sur la politesse sur internet", "other"},
	{"Novedades sobre la huelga de trenes", "news"},
	{"Búscame un piso en Gijón", "news"},
	{"Las últimas páginas de mi novela son flojas, mejóralas", "other"},
	{"Zapatos nuevos para la boda: escribe un lema", "other"},
	{"El perro busca su hueso; sigue el cuento", "other"},
	{"Buenas noticias: aprobé. Escribe un brindis", "other"},
	{"查一下明天去成都的高铁", "news"},
	{"帮我看看今天的汇率", "news"},
	{"给妈妈写一条消息", "other"},
	{"天气真好，写一首诗", "other"},
	{"新鞋子的广告语", "other"},
	{"好消息，我考上了，写句祝贺", "other"},
	{"在网上认识的朋友要来，写一封欢迎信", "other"},
	{"اعطني اخر الاخبار", "news"},
	{"ما حالة الطقس غدا في عمان", "news"},
	{"ابحث لي عن فندق رخيص", "news"},
	{"خبر سار: نجحت أختي، اكتب تهنئة", "other"},
	{"حذاء جديد: اكتب شعارا له", "other"},

	// Code, also where something of it is the newest or is searched, and what only shares its words.
	{"Explain the latest commit of my code", "structured"},
	{"Binary search in Python, with tests", "structured"},
	{"Why does my regex not match?", "structured"},
	{"Search my script for typos", "structured"},
	{"Write a SQL query that returns the newest order per customer", "structured"},
	{"Write a program that prints the latest exchange rates", "structured"},
	{"Give me the result as JSON: name, age", "structured"},
	{"My build fails with a stack trace, see below", "structured"},
	{"Plan a dress code for the wedding, keep it short", "other"},
	{"Compile a list of vegetarian dishes", "other"},
	{"Taylor Swift fan letter, two paragraphs", "other"},
	{"Describe the rust on my bike like a painter would", "other"},
	{"Describe a birthday bash for ten kids", "other"},
	{"Write a script for a short film about bees", "other"},
	{"Solve 3x + 5 = 20 step by step", "other"},
	{"Integrate x^2 from 0 to 3", "other"},
	{"Erkläre mir den neuesten Commit in meinem Code", "structured"},
	{"Gib die Liste als JSON aus", "structured"},
	{"Die Funktion in der Zelle, in drei Sätzen", "other"},
	{"Explique le dernier commit de mon code", "structured"},
	{"Rends-moi ça en JSON", "structured"},
	{"La fonction qui lui fut confiée l'ennuyait. Continue.", "other"},
	{"Le code de la route en une rime", "other"},
	{"Explica el último commit de mi código", "structured"},
	{"La función que vimos en el teatro fue larga; escribe una reseña", "other"},
	{"Mi código postal rima con nada, haz un verso", "other"},
	{"Programar una reunión con cariño: redacta la invitación", "other"},
	{"解释一下我代码里最新的提交", "structured"},
	{"写一个函数判断回文", "structured"},
	{"讲一个程序员的笑话", "other"},
	{"求函数的最大值", "other"},
	{"حول هذا الجدول إلى JSON", "structured"},
	{"اشرح أحدث تعديل في الكود", "structured"},

	// Questions, and what only begins like one.
	{"In which year did the wall fall", "question"},
	{"What is entropy? Write two sentences.", "question"},
	{"When did Rome fall", "question"},
	{"When I push the button, what happens?", "question"},
	{"Do you know who painted Guernica?", "question"},
	{"He who laughs last laughs best; explain with a fable", "other"},
	{"What a lovely day, write a haiku about it", "other"},
	{"How about a limerick on cats?", "other"},
	{"When I was a child we lived by the sea. Continue.", "other"},
	{"Comment on this essay in two lines", "other"},
	{"Could you write a poem about the man who sold the world?", "other"},
	{"Translate 'Where is the station?' into French", "other"},
	{"In welchem Jahr fiel die Mauer?", "question"},
	{"Womit füttert man Igel?", "question"},
	{"Wie besprochen sende ich die Unterlagen; formuliere das höflicher", "other"},
	{"Wie wäre es mit einem Gedicht?", "other"},
	{"D'où vient le mot robot ?", "question"},
	{"À quoi sert la rate ?", "question"},
	{"Quelle belle journée ! Écris un haïku", "other"},
	{"Quand j'étais petit, je vivais à Brest. Continue.", "other"},
	{"Peux-tu écrire un poème sur celui qui partit ?", "other"},
	{"¿En qué año cayó Constantinopla?", "question"},
	{"que es la fotosíntesis", "question"},
	{"Como médico, escribe una nota de ánimo", "other"},
	{"¡Que tengas un buen día! Dilo de otro modo", "other"},
	{"谁发明了造纸术", "question"},
	{"地球离月球多远", "question"},
	{"写几个句子描述秋天", "other"},
	{"没什么，陪我聊聊天", "other"},
	{"无论如何都要坚持，续写", "other"},
	{"من هو مخترع الهاتف", "question"},
	{"في أي عام سقطت غرناطة", "question"},
	{"وكيف يعمل القلب؟", "question"},
	{"كَيْفَ تُصنع القهوة", "question"},
	{"اين تقع جزر القمر", "question"},
	{"من فضلك اكتب رسالة شكر", "other"},
	{"هل يمكنك كتابة قصيدة قصيرة؟", "other"},
	{"ما زلت أحبك، أكمل الأغنية", "other"},
	{"اقتبس من الرواية جملة", "other"},
	{"اكتب ما تعرفه عن الصبر", "other"},
}

func TestDefaultRules(t *testing.T) {
	r, p := byDefault(t)
	entries := map[string]bool{}
	for _, list := range p.Rules.Words {
		for _, entry := range list {
			entries[strings.Trim(entry, "!*")] = true
		}
	}
	misses := 0
	for _, s := range sayings {
		if entries[s.message] {
			t.Errorf("%s is an entry of the lists", s.message)
		}
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
	if len(sayings) < 60 || misses < 15 {
		t.Errorf("only %d sayings, %d of them meeting none of the first four", len(sayings), misses)
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
	c, err = r.Choose(p, Input{Model: Auto, Message: "convert it to JSON"}, everybody)
	want := []Skipped{{"default.news", "its condition does not hold"}}
	for _, later := range []string{"default.long", "default.question", "default.other"} {
		want = append(want, Skipped{later, "default.structured fired before it"})
	}
	if err != nil || !slices.Equal(c.Skipped, want) {
		t.Errorf("%+v %v", c.Skipped, err)
	}
}

func describe(c Choice, err error) string {
	if err != nil {
		return fault.From(err).Code
	}
	return c.Route.ID + " " + c.Targets[0].Provider + " " + c.Targets[0].Model
}
