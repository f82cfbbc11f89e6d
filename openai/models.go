package openai

import "strconv"

// Model is one entry of the list of models.
type Model struct {
	ID      string
	Created int64 // unix seconds; 0 if nobody knows
	OwnedBy string
}

// AppendModel appends m as GET /v1/models/{id} answers it.
func AppendModel(dst []byte, m Model) []byte {
	dst = appendString(append(dst, `{"id":`...), m.ID)
	dst = strconv.AppendInt(append(dst, `,"object":"model","created":`...), m.Created, 10)
	dst = appendString(append(dst, `,"owned_by":`...), m.OwnedBy)
	return append(dst, '}')
}

// AppendModels appends the list as GET /v1/models answers it.
func AppendModels(dst []byte, models []Model) []byte {
	dst = append(dst, `{"object":"list","data":[`...)
	for i, m := range models {
		dst = AppendModel(comma(dst, i), m)
	}
	return append(dst, `]}`...)
}
