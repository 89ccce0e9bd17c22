package mplane_test

import (
	"fmt"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// A scope states when a capability can be used, or when a specification runs.
func ExampleParseScope() {
	when, err := mplane.ParseScope("now + 1h / 5m")
	if err != nil {
		fmt.Println(err)
		return
	}
	at := time.Date(2016, 3, 24, 21, 37, 0, 0, time.UTC)
	start, end := when.Times(at)
	period, _ := when.Period()
	fmt.Println(start.Format(time.TimeOnly), end.Format(time.TimeOnly), period)
	// Output:
	// 21:37:00 22:37:00 5m0s
}

// A client derives a specification from a capability by setting the parameters.
func ExampleStatement_Run() {
	registries, err := mplane.NewRegistries()
	if err != nil {
		fmt.Println(err)
		return
	}
	message, err := registries.Parse([]byte(`{
		"capability": "measure", "version": 1, "label": "ping", "registry": "http://ict-mplane.eu/registry/core",
		"when": "now ... future / 1s", "parameters": {"destination.ip4": "*"}, "results": ["delay.twoway"]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	when, _ := mplane.ParseScope("now + 10s / 1s")
	spec := message.(*mplane.Statement).Run(when)
	if err := spec.SetParameter("destination.ip4", "192.0.2.1"); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(spec.Kind, spec.Label, spec.When)
	// Output:
	// specification ping now + 10s / 1s
}
