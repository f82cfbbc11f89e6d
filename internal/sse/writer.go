package sse

import "bytes"

// AppendData appends an event whose data is payload: "data: …\n\n". A payload of several lines becomes as many data
// lines; CR and CRLF count as line ends too, since a reader would see them so, and come out as LF.
func AppendData(dst, payload []byte) []byte {
	return append(appendLines(dst, "data: ", payload), '\n')
}

// AppendComment appends a comment, which clients skip: a sign of life, or a note for somebody who looks at the wire.
func AppendComment(dst []byte, text string) []byte {
	return append(appendLines(dst, ": ", []byte(text)), '\n')
}

func appendLines(dst []byte, field string, text []byte) []byte {
	if bytes.IndexByte(text, '\n') < 0 && bytes.IndexByte(text, '\r') < 0 { // JSON payloads; IndexAny looks byte by byte
		dst = append(append(dst, field...), text...)
		return append(dst, '\n')
	}
	for {
		i := bytes.IndexAny(text, "\r\n")
		if i < 0 {
			dst = append(append(dst, field...), text...)
			return append(dst, '\n')
		}
		dst = append(append(dst, field...), text[:i]...)
		dst = append(dst, '\n')
		if text[i] == '\r' && i+1 < len(text) && text[i+1] == '\n' {
			i++
		}
		text = text[i+1:]
	}
}
