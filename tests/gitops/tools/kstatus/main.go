// kstatus reads a JSON list of objects and prints, one line each, what kstatus, which Flux and cli-utils use, makes of
// them: the status, a tab and the message.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

func main() {
	var objects []map[string]interface{}
	decoder := json.NewDecoder(os.Stdin)
	if err := decoder.Decode(&objects); err != nil {
		log.Fatal(err)
	}
	for _, object := range objects {
		// Through the client's own decoder: plain JSON numbers are float64, which accessors of unstructured refuse.
		raw, err := json.Marshal(object)
		if err != nil {
			log.Fatal(err)
		}
		var u unstructured.Unstructured
		if err := u.UnmarshalJSON(raw); err != nil {
			log.Fatal(err)
		}
		result, err := status.Compute(&u)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\t%s\n", result.Status, result.Message)
	}
}
