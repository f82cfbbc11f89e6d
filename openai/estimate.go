package openai

import (
	"bytes"
	"encoding/base64"
	"image"
	_ "image/gif"  // for the size of images
	_ "image/jpeg" // likewise
	_ "image/png"  // likewise
)

// What is estimated where nobody has counted, in tokens.
const (
	messageTokens  = 4    // around each message (OpenAI's own rule of thumb for chat)
	lowImage       = 85   // an image of detail "low"; the base of any other (OpenAI's vision guide)
	tileImage      = 170  // each square of 512 pixels of it
	unknownImage   = 1105 // an image whose size is not told: 2 × 3 tiles, the most there are of usual shapes
	bytesPerAudio  = 6400 // base64 bytes of an audio part for a token: a tenth of a second of 24 kHz PCM
	bytesPerFile   = 64   // likewise of a file: a page of a PDF is some 100 KB and some 1,500 tokens
	bytesPerToken  = 4
	maxImageHeader = 64 << 10 // of a data URL, in base64 bytes: more is not looked at to find the size
)

// EstimateTokens says about how many tokens a message is for a model: a token for each four bytes, and what is not text
// by what models take for it, whatever its bytes: images by their tiles, audio and files by their length. message is
// valid JSON.
func EstimateTokens(message []byte) int64 {
	size, media := int64(len(message)), int64(0)
	content, _ := find(message, "content")
	each(content.Value.of(message), func(_ int, part []byte) {
		if tokens, ok := partTokens(part); ok {
			size -= int64(len(part))
			media += tokens
		}
	})
	return messageTokens + (size+bytesPerToken-1)/bytesPerToken + media
}

// partTokens is what a content part is that is not text.
func partTokens(part []byte) (tokens int64, ok bool) {
	kind, _ := find(part, "type")
	name := text(kind.Value.of(part))
	inner, _ := find(part, name)
	v := inner.Value.of(part)
	switch name {
	case "image_url":
		return imageTokens(v), true
	case "input_audio":
		data, _ := find(v, "data")
		return 1 + int64(len(data.Value.of(v)))/bytesPerAudio, true
	case "file":
		data, _ := find(v, "file_data")
		return 1 + int64(len(data.Value.of(v)))/bytesPerFile, true
	}
	return 0, false
}

// imageTokens reads {"url", "detail"}.
func imageTokens(v []byte) int64 {
	var url, detail []byte
	walk(v, func(m Member) {
		switch string(m.Name) {
		case "url":
			url = m.Value.of(v)
		case "detail":
			detail = m.Value.of(v)
		}
	})
	if text(detail) == "low" {
		return lowImage
	}
	_, data, ok := bytes.Cut(body(url), []byte(";base64,"))
	if !ok {
		return unknownImage
	}
	head := data[:min(len(data), maxImageHeader)]
	c, _, err := image.DecodeConfig(base64.NewDecoder(base64.StdEncoding, bytes.NewReader(head)))
	if err != nil {
		return unknownImage
	}
	return lowImage + tileImage*tiles(c.Width, c.Height)
}

// tiles counts the squares of 512 pixels of an image that is first made to fit into 2048 × 2048, then to have a shorter
// side of at most 768.
func tiles(w, h int) int64 {
	if w <= 0 || h <= 0 {
		return 1
	}
	width, height := float64(w), float64(h)
	shrink := min(1, 2048/max(width, height))
	width, height = width*shrink, height*shrink
	shrink = min(1, 768/min(width, height))
	width, height = width*shrink, height*shrink
	squares := func(side float64) int64 { return max(1, int64((side+511)/512)) }
	return squares(width) * squares(height)
}
