// Kubernetes' own reader, asked: standard input has one JSON string a line, each a YAML document; the output is the same
// line, a tab, and the document as JSON, or "error".
//
// Debian: apt install golang-go golang-k8s-sigs-yaml-dev, then
// GO111MODULE=off GOPATH=/usr/share/gocode go run main.go < documents > answers.tsv
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"sigs.k8s.io/yaml"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var text string
		if err := json.Unmarshal(lines.Bytes(), &text); err != nil {
			panic(err)
		}
		answer, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			answer = []byte("error")
		}
		fmt.Printf("%s\t%s\n", lines.Text(), answer)
	}
}
