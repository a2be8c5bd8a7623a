package api_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/api"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/policies"
	"github.com/trustgate/trustgate/policy"
)

// face is the API over a gate, as one listener shows it.
type face struct {
	testing.TB
	url    string
	schema func(name string) *jsonschema.Schema
}

func open(t testing.TB, a api.API, operator bool) *face {
	t.Helper()
	server := httptest.NewServer(api.HTTP{API: a, Operator: operator, Log: zap.NewNop()}.Handler())
	t.Cleanup(server.Close)
	raw, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	for name, content := range map[string][]byte{"openapi.json": raw, "input.schema.json": policies.InputSchema} {
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		if err := compiler.AddResource("https://gate.example/api/v1/"+name, document); err != nil {
			t.Fatal(err)
		}
	}
	return &face{t, server.URL + api.Prefix, func(name string) *jsonschema.Schema {
		schema, err := compiler.Compile("https://gate.example/api/v1/openapi.json#/components/schemas/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return schema
	}}
}

// ask wants the status, and an answer that fits the schema; a list of them where
// the name ends in [].
func (f *face) ask(path string, status int, schema string, into any) {
	f.Helper()
	request, err := http.NewRequestWithContext(f.Context(), http.MethodGet, f.url+path, nil)
	if err != nil {
		f.Fatal(err)
	}
	request.Header.Set("User-Agent", "curious/1.0")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		f.Fatal(err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != status {
		f.Fatalf("%s: %s %v\n%s", path, answer.Status, err, raw)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		f.Fatalf("%s: %v\n%s", path, err, raw)
	}
	each := []any{document}
	if name, list := strings.CutSuffix(schema, "[]"); list {
		schema = name
		var ok bool
		if each, ok = document.([]any); !ok || len(each) == 0 {
			f.Fatalf("%s is no list with something in it:\n%s", path, raw)
		}
	}
	for _, one := range each {
		if err := f.schema(schema).Validate(one); err != nil {
			f.Errorf("%s does not fit its description: %v\n%s", path, err, raw)
		}
	}
	if into != nil {
		if err := json.Unmarshal(raw, into); err != nil {
			f.Fatal(err)
		}
	}
}

func TestAPI(t *testing.T) {
	s := stage.New(t)
	base := s.Trusted(s.Image("base/os", nil))
	app := s.Trusted(s.Image("app", base), base)
	unsigned := s.Image("unsigned", nil)
	g := s.Gate(stage.Options{})
	a := api.API{Gate: g, Ledger: g.Ledger}
	pullers, operators := open(t, a, false), open(t, a, true)

	var image api.Image
	operators.ask("image?image="+app.Reference(), 200, "Image", &image)
	if image.Digest != app.Digest || image.Verdict.Action != policy.Serve || len(image.Input.Parents) != 1 {
		t.Errorf("the image is %+v", image)
	}
	pullers.ask("image?image="+app.Name()+"@"+string(app.Digest), 200, "Image", &image)
	if image.Verdict.Action != policy.Serve {
		t.Errorf("by its digest it is %+v", image.Verdict)
	}
	pullers.ask("image?image="+unsigned.Reference(), 200, "Image", &image)
	if image.Verdict.Action != policy.Block || len(image.Verdict.Reasons) == 0 {
		t.Errorf("the unsigned image is %+v", image.Verdict)
	}
	blocked := image.Verdict.Decision

	t.Run("those who pull do not see each other", func(t *testing.T) {
		var image api.Image
		pullers.ask("image?image="+app.Reference(), 200, "Image", &image)
		if c := image.Input.Request.Client; c != (policy.Client{}) {
			t.Errorf("the input shows %+v", c)
		}
		for _, path := range []string{"verdicts", "verdicts/" + blocked} {
			pullers.ask(path, 404, "Failure", nil)
		}
		pullers.ask("image?fresh=true&image="+app.Reference(), 400, "Failure", nil)
	})

	t.Run("the source", func(t *testing.T) {
		var sources []api.Source
		pullers.ask("source?packages=true&image="+app.Reference(), 200, "Source[]", &sources)
		if one := sources[0]; !one.Verified || one.Repository != stage.Source || one.Revision != stage.Revision || one.Packages.State != "none" {
			t.Errorf("it is %+v", one)
		}
		sources = nil
		pullers.ask("source?image="+unsigned.Reference(), 200, "Source[]", &sources)
		if one := sources[0]; one.Verified || one.Packages != nil {
			t.Errorf("of the unsigned image it is %+v", one)
		}
	})

	t.Run("past verdicts", func(t *testing.T) {
		var list []api.Recorded
		operators.ask("verdicts?action=block&since=1h", 200, "Recorded[]", &list)
		if len(list) != 1 || list[0].Decision != blocked || list[0].Input != nil {
			t.Errorf("they are %+v", list)
		}
		operators.ask("verdicts?limit=1", 200, "Recorded[]", &list)
		last := list[0].Decision
		if operators.ask("verdicts?limit=1&before="+last, 200, "Recorded[]", &list); len(list) != 1 || list[0].Decision == last {
			t.Errorf("before %s there is %+v", last, list)
		}
		var one api.Recorded
		operators.ask("verdicts/"+blocked, 200, "Recorded", &one)
		if one.Digest != unsigned.Digest || len(one.Input) == 0 {
			t.Errorf("it is %+v", one)
		}
	})

	t.Run("what cannot be answered says why", func(t *testing.T) {
		for _, tc := range []struct {
			path   string
			status int
			says   string
		}{
			{"image", 400, "reference"},
			{"image?image=App", 400, "App"},
			{"image?image=app&colour=red", 400, "colour"},
			{"image?image=%zz", 400, "invalid URL escape"},
			{"image?image=elsewhere.example/app", 404, "no route serves this registry"},
			{"image?image=" + app.Name() + ":9", 404, "9"},
			{"source?packages=yes&image=" + app.Reference(), 400, "true or false"},
			{"verdicts?action=eat", 400, "serve, annotate or block"},
			{"verdicts?since=tuesday", 400, "24h"},
			{"verdicts?limit=0", 400, "1 to 1000"},
			{"verdicts?limit=5000", 400, "1 to 1000"},
			{"verdicts/tg-nothing", 404, "tg-nothing"},
			{"images", 404, "openapi.json"},
		} {
			var failure struct{ Error string }
			operators.ask(tc.path, tc.status, "Failure", &failure)
			if !strings.Contains(failure.Error, tc.says) || strings.Contains(failure.Error, "\n") {
				t.Errorf("%s says %q", tc.path, failure.Error)
			}
		}
		answer, err := http.Post(operators.url+"image?image=app", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST is answered with %s", answer.Status)
		}
	})
}

// TestDescription: the description is served, it names the paths that there are,
// and its schemas compile.
func TestDescription(t *testing.T) {
	operators := open(t, api.API{}, true)
	answer, err := http.Get(operators.url + "openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var description struct {
		OpenAPI    string
		Paths      map[string]any
		Components struct{ Schemas map[string]any }
	}
	if err := json.NewDecoder(answer.Body).Decode(&description); err != nil {
		t.Fatal(err)
	}
	if description.OpenAPI != "3.1.0" || len(description.Paths) != 4 || len(description.Components.Schemas) < 5 {
		t.Errorf("it describes %d paths by %d schemas as OpenAPI %s", len(description.Paths), len(description.Components.Schemas), description.OpenAPI)
	}
	for path := range description.Paths {
		if !strings.HasPrefix(path, api.Prefix) {
			t.Errorf("it describes %s", path)
		}
	}
	for name := range description.Components.Schemas {
		operators.schema(name)
	}
	schema, err := http.Get(operators.url + "input.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	defer schema.Body.Close()
	if raw, err := io.ReadAll(schema.Body); err != nil || !bytes.Equal(raw, policies.InputSchema) {
		t.Errorf("the schema of the input is %d bytes, %v", len(raw), err)
	}
}
