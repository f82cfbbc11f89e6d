package fetch

import (
	"bytes"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"threadhub/internal/fault"
)

// read takes the file from an answer, and closes it.
func read(response *http.Response, types []string, budget *Budget) (File, error) {
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return File{}, failed(nil, "the host answered with status "+strconv.Itoa(response.StatusCode))
	}
	// What was compressed for the way is refused: nobody asked for it, and it may be a thousand times as large.
	if e := strings.ToLower(strings.Join(response.Header.Values("Content-Encoding"), ",")); e != "" && e != "identity" {
		return File{}, failed(nil, "the host sent it in an encoding that was not asked for")
	}
	declared, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")) // a bad parameter is no reason to doubt the type
	if !unsaid[declared] && !among(types, declared) {
		return File{}, unsupported(declared)
	}
	data, err := within(response, budget)
	if err != nil {
		return File{}, err
	}
	found := sniff(data)
	if found == plainText && strings.HasPrefix(declared, "text/") {
		found = declared // of texts the bytes tell no more
	}
	if !among(types, found) {
		return File{}, unsupported(found)
	}
	return File{Type: found, Data: data}, nil
}

// within reads a body as far as the budget goes.
func within(response *http.Response, budget *Budget) ([]byte, error) {
	var b bytes.Buffer
	for {
		n, err := b.ReadFrom(io.LimitReader(response.Body, 32<<10))
		if !budget.take(n) {
			return nil, fault.New(fault.TooLarge, "the files at the request's addresses are too large together").WithCode("request_too_large")
		}
		if err != nil {
			return nil, failed(nil, "the host broke off")
		}
		if n == 0 {
			return b.Bytes(), nil
		}
	}
}

// unsaid are the types of answers that do not tell one.
var unsaid = map[string]bool{"": true, "application/octet-stream": true, "binary/octet-stream": true}

// among reports whether a media type is one of types.
func among(types []string, media string) bool {
	return slices.ContainsFunc(types, func(t string) bool {
		return t == media || strings.HasSuffix(t, "/") && strings.HasPrefix(media, t)
	})
}

func unsupported(media string) error {
	return fault.New(fault.Invalid, "the file at this address is of the type %q, which is not taken here", media).WithCode("unsupported_media_type")
}

const plainText = "text/plain"

// magic are bytes by which types are known, and where they stand.
var magic = []struct {
	at    int
	bytes string
	media string
}{
	{0, "\x89PNG\r\n\x1a\n", "image/png"},
	{0, "\xff\xd8\xff", "image/jpeg"},
	{0, "GIF87a", "image/gif"},
	{0, "GIF89a", "image/gif"},
	{8, "WEBP", "image/webp"},
	{0, "BM", "image/bmp"},
	{4, "ftypheic", "image/heic"},
	{4, "ftypheix", "image/heic"},
	{4, "ftypheim", "image/heic"},
	{4, "ftypheis", "image/heic"},
	{4, "ftypmif1", "image/heif"},
	{4, "ftypmsf1", "image/heif"},
	{4, "ftypavif", "image/avif"},
	{4, "ftypavis", "image/avif"},
	{4, "ftypqt  ", "video/quicktime"},
	{4, "ftypM4A ", "audio/mp4"},
	{4, "ftyp", "video/mp4"},
	{0, "\x1a\x45\xdf\xa3", "video/webm"},
	{0, "%PDF-", "application/pdf"},
	{8, "WAVE", "audio/wav"},
	{0, "ID3", "audio/mpeg"},
	{0, "\xff\xfb", "audio/mpeg"},
	{0, "OggS", "audio/ogg"},
	{0, "fLaC", "audio/flac"},
}

// sniff is the type of data by its bytes.
func sniff(data []byte) string {
	for _, m := range magic {
		if len(data) >= m.at && bytes.HasPrefix(data[m.at:], []byte(m.bytes)) && (m.at != 8 || bytes.HasPrefix(data, []byte("RIFF"))) {
			return m.media
		}
	}
	if len(data) > 0 && utf8.Valid(data) && bytes.IndexByte(data, 0) < 0 {
		return plainText
	}
	return "application/octet-stream"
}
