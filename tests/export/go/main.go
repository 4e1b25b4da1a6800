// Writes conversations with a template, as Ollama does: `go run main.go JOB.json`.
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type Message struct{ Role, Content string }

type Job struct {
	Template      string
	Conversations [][]*Message
}

func main() {
	text, err := os.ReadFile(os.Args[1])
	if err != nil {
		panic(err)
	}
	var job Job
	if err := json.Unmarshal(text, &job); err != nil {
		panic(err)
	}
	parsed := template.Must(template.New("").Option("missingkey=zero").Parse(job.Template))
	written := []string{}
	for _, messages := range job.Conversations {
		var out strings.Builder
		if err := parsed.Execute(&out, map[string]any{"Messages": messages, "System": "", "Response": ""}); err != nil {
			panic(err)
		}
		written = append(written, out.String())
	}
	json.NewEncoder(os.Stdout).Encode(written)
}
