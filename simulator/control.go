package simulator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// controlBase is where the simulator itself is talked to.
const controlBase = "/_control"

// control answers PUT, POST and DELETE /_control/script, GET and DELETE /_control/log, and GET /_control/checks.
func (s *Simulator) control(c *conn, req *http.Request) bool {
	body, err := io.ReadAll(io.LimitReader(req.Body, 1<<20))
	if err != nil {
		return false
	}
	status, answer := http.StatusOK, []byte("{}\n")
	switch route := req.Method + " " + strings.TrimPrefix(req.URL.Path, controlBase); route {
	case "PUT /script", "POST /script":
		list, err := readScripts(body)
		if err == nil {
			if req.Method == http.MethodPut {
				s.Unplay()
			}
			err = s.Play(list...)
		}
		if err != nil {
			status = http.StatusBadRequest
			answer = append(append([]byte(`{"error":`), quote(nil, err.Error())...), "}\n"...)
		}
	case "DELETE /script":
		s.Unplay()
	case "GET /log":
		answer = logLines(s.Log())
	case "DELETE /log":
		s.log.reset()
		s.checks.reset()
	case "GET /checks":
		answer = logLines(s.Checks())
	case "GET /faults":
		answer, _ = json.Marshal(Faults())
	default:
		status, answer = http.StatusNotFound, []byte(`{"error":"no such control"}`+"\n")
	}
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n",
		status, http.StatusText(status), len(answer))
	if _, err := io.WriteString(c.tcp, head); err != nil {
		return false
	}
	_, err = c.tcp.Write(answer)
	return err == nil && !req.Close
}

// logLines is a log, one JSON object on each line.
func logLines(list []Attempt) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, a := range list {
		_ = enc.Encode(a) // plain data: it can not fail
	}
	return b.Bytes()
}

// readScripts reads one script or an array of them. Members other than provider, path, match, times and do are keys of
// the directive.
func readScripts(body []byte) ([]Script, error) {
	var list []map[string]any
	if err := json.Unmarshal(body, &list); err != nil {
		var one map[string]any
		if err := json.Unmarshal(body, &one); err != nil {
			return nil, fmt.Errorf("a script is a JSON object, or an array of them: %w", err)
		}
		list = []map[string]any{one}
	}
	scripts := make([]Script, len(list))
	for i, members := range list {
		sc := &scripts[i]
		keys := make([]string, 0, len(members))
		for key := range members {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			value := fmt.Sprint(members[key])
			if f, ok := members[key].(float64); ok {
				value = strconv.FormatFloat(f, 'f', -1, 64)
			}
			switch key {
			case "provider":
				sc.Provider = value
			case "path":
				sc.Path = value
			case "match":
				sc.Match = value
			case "do":
				sc.Do += " " + value
			case "times":
				n, err := strconv.Atoi(value)
				if err != nil || n < 0 {
					return nil, fmt.Errorf("times is a number from 0")
				}
				sc.Times = n
			default:
				sc.Do += " " + key + "=" + strconv.Quote(value)
			}
		}
	}
	return scripts, nil
}
