// Package histories makes random conversations, as threads hold them whose turns were answered by any of the providers in
// any order, and as clients send them, puts each into the words of a provider, and looks at what that would be sent:
// whether the provider takes it, whether anything was lost that no warning names, and whether calls and results, orders
// and signatures are as the papers on the providers' formats want them.
//
// Every piece of a conversation holds a mark, a word that is nowhere else. What is looked for is the marks, so that
// nothing here knows how a translator writes what it writes. What a provider takes is the simulator's to say. What may be
// missing, and under which name in a warning, and who understands whose signatures, is written here from the papers
// and not read from the code.
package histories
