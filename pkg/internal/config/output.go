package config

// Output holds the settings for the output of commands.
type Output struct {
	JSON             bool
	MetricsFile      string
	ProgressInterval Duration
	Verbose, Quiet   bool
}

const groupOutput = "Output"

func (o *Output) json(usage string) *Setting {
	return &Setting{Name: "json", Group: groupOutput, Value: &o.JSON, Usage: usage}
}

func (o *Output) metricsFile() *Setting {
	return &Setting{Name: "metrics-file", Group: groupOutput, Value: &o.MetricsFile, Complete: "file",
		Usage: "write Prometheus metrics to `FILE` (*.prom for node_exporter)"}
}

func (o *Output) progressInterval() *Setting {
	return &Setting{Name: "progress-interval", Group: groupOutput, Value: &o.ProgressInterval, Empty: "off",
		Usage: "log the progress every `DURATION` if stderr is not a terminal"}
}

func (o *Output) verbose() *Setting {
	return &Setting{Name: "verbose", Group: groupOutput, Value: &o.Verbose,
		Usage: "print the summary even if stderr is not a terminal"}
}

func (o *Output) quiet() *Setting {
	return &Setting{Name: "quiet", Group: groupOutput, Value: &o.Quiet,
		Usage: "print only warnings and errors"}
}
