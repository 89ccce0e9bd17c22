package stores

import "testing"

// TestSplitTransform checks that only the option anonymize is cut out, also if its
// value is invalid: nothing may be stored as if the option were missing.
func TestSplitTransform(t *testing.T) {
	for text, want := range map[string]struct {
		destination, mode string
		given             bool
	}{
		"/srv/a":                {"/srv/a", "", false},
		"/srv/a?b":              {"/srv/a?b", "", false},
		"/srv/a?anonymize=drop": {"/srv/a", "drop", true},
		"parquet:a?anonymize=":  {"parquet:a", "", true},
		"parquet:a?anonymize":   {"parquet:a", "", true},
		"parquet:a?anonymize=%": {"parquet:a", "%", true},
		"copy:a?compress=zstd&anonymize=tstat,key-file=/k%26k,names=drop&layout=month": {"copy:a?compress=zstd&layout=month", "tstat,key-file=/k&k,names=drop", true},
		"postgres://u@h/d?anonymize=truncate=/24,/48&sslmode=disable":                  {"postgres://u@h/d?sslmode=disable", "truncate=/24,/48", true},
		"copy:a?anonymize=drop&anonymize=tstat":                                        {"copy:a", "drop,tstat", true},
	} {
		if d, mode, given := SplitTransform(text); d != want.destination || mode != want.mode || given != want.given {
			t.Errorf("%s: %q, %q, %v", text, d, mode, given)
		}
	}
}
