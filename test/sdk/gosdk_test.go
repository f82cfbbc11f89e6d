package sdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/ssestream"
	"github.com/openai/openai-go/v3/shared"
)

// goSDK does jobs with OpenAI's Go SDK.
type goSDK struct{}

func (goSDK) do(j job) (result, error) {
	ctx := context.Background()
	if j.DeadlineMS > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(j.DeadlineMS)*time.Millisecond)
		defer cancel()
	}
	r := &goRun{job: j, ctx: ctx, client: openai.NewClient(option.WithBaseURL(j.BaseURL), option.WithAPIKey(j.Key))}
	var err error
	switch j.Do {
	case doChat:
		_, err = r.whole(r.params())
	case doParse:
		if _, err = r.whole(r.params()); err == nil && json.Valid([]byte(r.out.Text)) {
			r.out.Parsed = json.RawMessage(r.out.Text) // this SDK has no parser: its users unmarshal the text
		}
	case doStream:
		err = r.stream()
	case doTools:
		err = r.tools(r.whole)
	case doToolsStream:
		err = r.tools(r.accumulated)
	default:
		return result{}, fmt.Errorf("no job is called %q", j.Do)
	}
	r.out.Err = r.raised(err)
	return r.out, nil
}

// goRun is one job under way.
type goRun struct {
	job
	ctx    context.Context
	client openai.Client
	out    result
}

func (r *goRun) params() openai.ChatCompletionNewParams {
	p := openai.ChatCompletionNewParams{Model: r.Model}
	for _, m := range r.Messages {
		switch m.Role {
		case "system":
			p.Messages = append(p.Messages, openai.SystemMessage(m.Content))
		case "assistant":
			p.Messages = append(p.Messages, openai.AssistantMessage(m.Content))
		default:
			p.Messages = append(p.Messages, openai.UserMessage(m.Content))
		}
	}
	if r.Temperature != nil {
		p.Temperature = openai.Float(*r.Temperature)
	}
	if r.Schema != nil {
		p.ResponseFormat.OfJSONSchema = &shared.ResponseFormatJSONSchemaParam{
			JSONSchema: shared.ResponseFormatJSONSchemaJSONSchemaParam{Name: "answer", Strict: openai.Bool(true), Schema: r.Schema},
		}
	}
	return p
}

// options are those of each request; raw gets its answer.
func (r *goRun) options(raw **http.Response) []option.RequestOption {
	opts := []option.RequestOption{option.WithResponseInto(raw)}
	for name, value := range r.job.Header {
		opts = append(opts, option.WithHeader(name, value))
	}
	if r.TimeoutMS > 0 {
		opts = append(opts, option.WithRequestTimeout(time.Duration(r.TimeoutMS)*time.Millisecond))
	}
	if r.MaxRetries != nil {
		opts = append(opts, option.WithMaxRetries(*r.MaxRetries))
	}
	if r.RetryDelayMS > 0 {
		opts = append(opts, option.WithMaxRetryDelay(time.Duration(r.RetryDelayMS)*time.Millisecond))
	}
	return opts
}

// answered notes the head of an answer.
func (r *goRun) answered(raw *http.Response) {
	if raw == nil {
		return
	}
	r.out.RequestID = raw.Header.Get("X-Request-Id")
	r.out.Header = map[string]string{}
	for name := range raw.Header {
		r.out.Header[strings.ToLower(name)] = raw.Header.Get(name)
	}
}

// told notes a whole answer, or what a stream came to.
func (r *goRun) told(c *openai.ChatCompletion) error {
	if len(c.Choices) == 0 {
		return errors.New("an answer without a choice")
	}
	r.out.Text, r.out.Finish, r.out.Model = c.Choices[0].Message.Content, c.Choices[0].FinishReason, c.Model
	r.out.Usage = &usage{Prompt: c.Usage.PromptTokens, Completion: c.Usage.CompletionTokens, Total: c.Usage.TotalTokens}
	return nil
}

func (r *goRun) whole(p openai.ChatCompletionNewParams) (*openai.ChatCompletion, error) {
	var raw *http.Response
	c, err := r.client.Chat.Completions.New(r.ctx, p, r.options(&raw)...)
	r.answered(raw)
	if err != nil {
		return nil, err
	}
	return c, r.told(c)
}

func (r *goRun) stream() error {
	p := r.params()
	if r.IncludeUsage {
		p.StreamOptions.IncludeUsage = openai.Bool(true)
	}
	var raw *http.Response
	s := r.client.Chat.Completions.NewStreaming(r.ctx, p, r.options(&raw)...)
	defer func() { _ = s.Close() }()
	r.answered(raw)
	for s.Next() {
		c := s.Current()
		r.out.Model = c.Model
		if len(c.Choices) > 0 {
			r.out.Text += c.Choices[0].Delta.Content
			if f := c.Choices[0].FinishReason; f != "" {
				r.out.Finish = f
			}
		}
		if c.JSON.Usage.Valid() {
			r.out.Usages++
			r.out.Usage = &usage{}
			if err := json.Unmarshal([]byte(c.Usage.RawJSON()), r.out.Usage); err != nil {
				return err
			}
		}
	}
	return s.Err()
}

// accumulated is whole by way of a stream and the SDK's accumulator.
func (r *goRun) accumulated(p openai.ChatCompletionNewParams) (*openai.ChatCompletion, error) {
	p.StreamOptions.IncludeUsage = openai.Bool(true)
	var raw *http.Response
	s := r.client.Chat.Completions.NewStreaming(r.ctx, p, r.options(&raw)...)
	defer func() { _ = s.Close() }()
	r.answered(raw)
	var acc openai.ChatCompletionAccumulator
	for s.Next() {
		if !acc.AddChunk(s.Current()) {
			return nil, fmt.Errorf("the accumulator refused the chunk %s", s.Current().RawJSON())
		}
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	return &acc.ChatCompletion, r.told(&acc.ChatCompletion)
}

// tools answers tool calls until there are none.
func (r *goRun) tools(ask func(openai.ChatCompletionNewParams) (*openai.ChatCompletion, error)) error {
	var schema shared.FunctionParameters
	if err := json.Unmarshal([]byte(weatherSchema), &schema); err != nil {
		return err
	}
	p := r.params()
	p.Tools = []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{
		Name: weatherName, Description: openai.String("The weather in a city."), Parameters: schema, Strict: openai.Bool(true),
	})}
	for {
		c, err := ask(p)
		if err != nil {
			return err
		}
		m := c.Choices[0].Message
		if len(m.ToolCalls) == 0 {
			return nil
		}
		if r.Thin {
			p.Messages = nil
		} else {
			p.Messages = append(p.Messages, m.ToParam())
		}
		for _, call := range m.ToolCalls {
			var args struct{ City string }
			if err := json.Unmarshal([]byte(call.Function.Arguments), &args); err != nil {
				return fmt.Errorf("the arguments %q: %w", call.Function.Arguments, err)
			}
			answer := weatherIn(args.City)
			p.Messages = append(p.Messages, openai.ToolMessage(answer, call.ID))
			r.out.Calls = append(r.out.Calls, toolCall{call.ID, call.Function.Name, json.RawMessage(call.Function.Arguments), answer})
		}
	}
}

// raised is err in the words shared with Node.
func (r *goRun) raised(err error) *sdkError {
	var answer *openai.Error
	var event *ssestream.StreamError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &answer):
		e := &sdkError{Status: answer.StatusCode, Type: answer.Type, Param: answer.Param, Code: answer.Code, Message: answer.Message}
		if answer.Response != nil {
			r.answered(answer.Response)
		}
		e.Class = map[int]string{400: badRequest, 401: authentication, 404: notFound, 500: serverError, 502: serverError}[e.Status]
		return e
	case errors.As(err, &event):
		var body struct{ Error sdkError }
		if err := json.Unmarshal(event.Event.Data, &body); err != nil {
			return &sdkError{Message: err.Error()}
		}
		body.Error.Class = inStream
		return &body.Error
	case r.ctx.Err() != nil:
		return &sdkError{Class: deadline, Message: err.Error()}
	case errors.Is(err, context.DeadlineExceeded):
		return &sdkError{Class: timedOut, Message: err.Error()}
	}
	return &sdkError{Class: fmt.Sprintf("%T", err), Message: err.Error()}
}
