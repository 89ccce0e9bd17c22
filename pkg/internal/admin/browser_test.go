package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// chromium returns the path of a browser. Without a browser, it skips the test, or fails
// it on CI.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("no chromium")
	}
	t.Skip("no chromium (apt-get install chromium)")
	return ""
}

// browse runs a headless browser and returns its output.
func browse(t *testing.T, dark bool, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	scheme := 1
	if dark {
		scheme = 0
	}
	home := t.TempDir()
	cmd := exec.CommandContext(ctx, chromium(t), append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--hide-scrollbars", "--user-data-dir=" + filepath.Join(home, "profile"),
		// Requests to other hosts fail and are reported.
		"--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
		fmt.Sprintf("--blink-settings=preferredColorScheme=%d", scheme),
	}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home)
	cmd.WaitDelay = 10 * time.Second
	var messages strings.Builder
	cmd.Stderr = &messages
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("chromium: %v\n%s", err, messages.String())
	}
	return string(out)
}

// bench serves the status pages of states inside a frame of a test page. The script
// of the test page inspects them, since the status page allows no scripts and no
// frames.
type bench struct {
	URL string

	mu        sync.Mutex
	requests  []string
	forbidden []string // requests that the policy blocked
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{}
	mux := http.NewServeMux()
	for name, s := range map[string]*State{"busy": busy(), "broken": broken(), "hostile": hostile(), "empty": empty(), "many": many(), "manybroken": manyBroken(), "probe": probeState()} {
		ready := func() error { return nil }
		if name == "broken" {
			ready = func() error { return errors.New("endpoint collect-rrd is not open") }
		}
		p := &page{opt: Options{State: func() *State { return s }, Ready: ready}, now: func() time.Time { return noon }}
		mux.HandleFunc("/framed/"+name+"/", func(w http.ResponseWriter, r *http.Request) {
			h := &framed{ResponseWriter: w}
			secured(p).ServeHTTP(h, r)
		})
	}
	mux.HandleFunc("/shot", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, shot)
	})
	mux.HandleFunc("/look", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, look)
	})
	mux.HandleFunc("/forbidden", func(w http.ResponseWriter, r *http.Request) {
		var report map[string]any
		json.NewDecoder(r.Body).Decode(&report)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.forbidden = append(b.forbidden, fmt.Sprint(report))
	})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		b.requests = append(b.requests, r.Method+" "+r.URL.Path)
		b.mu.Unlock()
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	b.URL = srv.URL
	return b
}

// framed changes the policy of a page: it allows frames, and reports blocked requests
// to the server.
type framed struct{ http.ResponseWriter }

func (f *framed) WriteHeader(status int) {
	h := f.Header()
	h.Del("X-Frame-Options")
	h.Set("Content-Security-Policy", strings.Replace(policy, "frame-ancestors 'none'", "frame-ancestors 'self'", 1)+"; report-uri /forbidden")
	f.ResponseWriter.WriteHeader(status)
}

// look is a test page that shows states in a frame of the given widths, such as
// ?busy=1280&empty=360, and writes its findings as JSON.
const look = `<!DOCTYPE html><title>look</title><iframe id="f" style="border:0;height:900px"></iframe><pre id="found"></pre>
<script>
const inspect = state => {
	const d = f.contentDocument, w = f.contentWindow, wrong = [];
	const name = e => e.tagName + (e.id ? "#" + e.id : "") + " " + (e.textContent || "").trim().slice(0, 40);
	const all = s => [...d.querySelectorAll(s)];
	const need = (e, ok, what) => { if (!ok) wrong.push(what + ": " + name(e)); };

	// The initial height and folds.
	const height = d.documentElement.scrollHeight, folded = all("details:not([open])").length, open = all("details[open]").length;
	for (const e of all("details")) {
		need(e, e.firstElementChild.tagName === "SUMMARY" && e.firstElementChild.textContent.trim(), "fold without summary");
		need(e, e.open || !e.querySelector("summary .mark.error, summary .mark.warning"), "folded trouble");
		e.open = true; // the other checks need the whole page
	}
	for (const t of all("table")) {
		need(t, t.caption && t.caption.textContent.trim(), "table without caption");
		for (const th of t.querySelectorAll("th")) need(th, ["col", "row"].includes(th.scope), "th without scope");
		const columns = t.tHead.rows[0].cells.length;
		for (const r of t.tBodies[0].rows) {
			need(r, r.cells.length === columns, "row with other cells than columns");
			for (const c of r.cells) if (c.tagName === "TD") need(c, c.dataset.label, "cell without label");
		}
	}
	for (const s of all("svg")) {
		const first = s.firstElementChild;
		need(s, s.getAttribute("role") === "img" && first && first.tagName === "title" && first.textContent.trim(), "image without title");
	}
	for (const s of all("section, nav")) {
		const by = s.getAttribute("aria-labelledby");
		need(s, s.getAttribute("aria-label") || by && d.getElementById(by), "landmark without name");
	}
	for (const i of all("input:not([type=hidden])")) need(i, i.labels.length === 1, "field without label");
	for (const m of all("meter")) need(m, m.getAttribute("aria-label"), "meter without name");
	for (const a of all("a[href^='#']")) need(a, d.getElementById(a.getAttribute("href").slice(1)), "link to nowhere");
	for (const one of ["main", "header", "footer", "h1", "nav"]) if (all(one).length !== 1) wrong.push("not one " + one);
	if (d.documentElement.lang !== "en") wrong.push("no language");
	let level = 0;
	for (const h of all("h1, h2, h3, h4")) {
		const n = +h.tagName[1];
		need(h, n <= level + 1, "heading that skips a level");
		level = n;
	}
	const ids = all("[id]").map(e => e.id);
	if (new Set(ids).size !== ids.length) wrong.push("ids twice");

	// Keyboard: the skip link comes first and is visible when focused; the
	// focus order is the order of the text.
	const stops = all("a[href], button, summary, input:not([type=hidden]), [tabindex]").filter(e => e.tabIndex >= 0);
	if (!stops[0].classList.contains("skip")) wrong.push("first stop is no skip link");
	for (const e of stops) {
		need(e, e.tabIndex === 0, "order of its own");
		e.focus({focusVisible: true});
		const r = e.getBoundingClientRect();
		need(e, d.activeElement === e && r.left >= 0 && r.width > 0, "cannot be seen with the focus");
		need(e, w.getComputedStyle(e).outlineStyle !== "none", "focus cannot be seen");
	}

	// Contrast of text: at least 4.5 to 1, as WCAG level AA requires.
	const rgb = c => c.match(/[\d.]+/g).map(Number);
	const light = c => { const [r, g, b] = c.map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
	const ground = e => { for (; e; e = e.parentElement) { const c = rgb(w.getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
	let least = 99, texts = 0;
	const walk = d.createTreeWalker(d.body, NodeFilter.SHOW_TEXT);
	while (walk.nextNode()) {
		const e = walk.currentNode.parentElement;
		if (!walk.currentNode.data.trim() || e.closest("svg, meter")) continue;
		texts++;
		const a = light(rgb(w.getComputedStyle(e).color)), b = light(ground(e));
		const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
		least = Math.min(least, ratio);
		need(e, ratio >= 4.5, "contrast " + ratio.toFixed(1));
	}

	// No element is wider than the window.
	if (d.documentElement.scrollWidth > w.innerWidth) {
		wrong.push("wider than the window: " + d.documentElement.scrollWidth);
		for (const e of all("body *")) if (e.getBoundingClientRect().right > w.innerWidth + 1 && !e.closest(".skip")) wrong.push("too wide: " + name(e));
	}
	// Numbers of a column are right-aligned.
	if (w.innerWidth > 800) for (const t of all("table")) {
		const ends = {};
		for (const c of t.querySelectorAll("tbody td.n")) (ends[c.cellIndex] ||= new Set()).add(Math.round(c.getBoundingClientRect().right));
		for (const k in ends) need(t, ends[k].size === 1, "column not aligned");
	}
	wrong.splice(20);
	return {state, width: w.innerWidth, height, folded, open, wrong, least, texts, scripts: d.scripts.length, dark: w.matchMedia("(prefers-color-scheme: dark)").matches,
		injected: all("script, iframe, object, embed, img, link[rel=stylesheet], [onclick], [onerror], b.hostile").length};
};
(async () => {
	const list = [];
	for (const [state, width] of new URLSearchParams(location.search)) {
		f.style.width = width + "px";
		await new Promise(loaded => { f.onload = loaded; f.src = "/framed/" + state + "/"; });
		list.push(inspect(state));
	}
	found.textContent = JSON.stringify(list);
})();
</script>`

// shot is a test page that shows a page with a given width in its full height, such
// as /shot?width=360&path=busy/.
const shot = `<!DOCTYPE html><title>shot</title><style>body{margin:0}iframe{border:0;display:block}</style><iframe id="f"></iframe>
<script>
const q = new URLSearchParams(location.search);
f.style.width = q.get("width") + "px";
f.style.height = "100px";
f.onload = () => { f.style.height = f.contentDocument.documentElement.scrollHeight + "px"; };
f.src = "/framed/" + q.get("path");
</script>`

// TestScreenshots writes screenshots of the page to the folder in SCREENSHOTS, for
// visual inspection.
func TestScreenshots(t *testing.T) {
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		t.Skip("SCREENSHOTS names no folder")
	}
	b := newBench(t)
	for _, path := range []string{"busy/", "broken/", "empty/", "many/", "manybroken/", "manybroken/?show=unhealthy", "many/?probe=probe-03.example.org", "probe/"} {
		if only := os.Getenv("SCREENSHOT"); only != "" && only != path {
			continue
		}
		for _, width := range []int{1280, 360} {
			for _, dark := range []bool{false, true} {
				name := fmt.Sprintf("%s-%d-%v.png", strings.NewReplacer("/", "", "?", "-", "=", "-").Replace(path), width, map[bool]string{true: "dark", false: "light"}[dark])
				height := map[int]int{1280: 1600, 360: 3200}[width]
				browse(t, dark, fmt.Sprintf("--window-size=%d,%d", max(width, 500), height), "--virtual-time-budget=5000",
					"--screenshot="+filepath.Join(dir, name), fmt.Sprintf("%s/shot?width=%d&path=%s", b.URL, width, url.QueryEscape(path)))
			}
		}
	}
}

// found holds the findings of the page look.
type found struct {
	State    string
	Width    int
	Height   int // as served
	Folded   int // sections
	Open     int // sections that are not folded
	Wrong    []string
	Least    float64
	Texts    int
	Scripts  int
	Injected int
	Dark     bool
}

// TestBrowser checks the page in a browser. It must fit the window, be usable with a
// keyboard and a screen reader, be readable in light and dark mode, and make no other
// requests.
func TestBrowser(t *testing.T) {
	b := newBench(t)
	for _, dark := range []bool{false, true} {
		type page struct {
			state string
			width int
		}
		pages := []page{{"many", 1280}, {"many", 360}, {"manybroken", 1280}, {"manybroken", 360}, {"probe", 1280}, {"probe", 360}, {"busy", 1280}, {"busy", 360}, {"broken", 1280}, {"broken", 360}, {"hostile", 1024}, {"hostile", 360}, {"empty", 360}, {"empty", 800}}
		var query []string
		for _, p := range pages {
			query = append(query, fmt.Sprintf("%s=%d", p.state, p.width))
		}
		dom := browse(t, dark, "--window-size=1400,1000", "--virtual-time-budget=30000", "--dump-dom", b.URL+"/look?"+strings.Join(query, "&"))
		_, text, _ := strings.Cut(dom, `<pre id="found">`)
		text, _, _ = strings.Cut(text, "</pre>")
		var list []found
		if err := json.Unmarshal([]byte(html.UnescapeString(text)), &list); err != nil || len(list) != len(pages) {
			t.Fatalf("%v in %q of\n%.2000s", err, text, dom)
		}
		for i, f := range list {
			for _, w := range f.Wrong {
				t.Errorf("%s, %d wide, dark %v: %s", f.State, f.Width, f.Dark, w)
			}
			if f.State != pages[i].state || f.Width != pages[i].width || f.Dark != dark || f.Texts < 20 || f.Scripts != 0 || f.Injected != 0 {
				t.Errorf("found %+v", f)
			}
			// 20 healthy probes fit on a screen of 1080 lines.
			if f.State == "many" && f.Width == 1280 && f.Height > 950 {
				t.Errorf("many, %d wide: %d high", f.Width, f.Height)
			}
			if f.State == "many" && (f.Open != 0 || f.Folded < 20) || f.State == "manybroken" && f.Open != 3 {
				t.Errorf("%s: %d open, %d folded", f.State, f.Open, f.Folded)
			}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.forbidden {
		t.Errorf("the policy stopped a request: %s", r)
	}
	for _, r := range b.requests {
		method, path, _ := strings.Cut(r, " ")
		if method != "GET" || path != "/look" && !strings.HasPrefix(path, "/framed/") && path != "/favicon.ico" {
			t.Errorf("the page asked for %s", r)
		}
	}
}

// TestPolicyWorks checks that the browser would not load foreign scripts, styles or
// images in the page.
func TestPolicyWorks(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.URL.Path)
		mu.Unlock()
		secured(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprint(w, `<p id="p">untouched</p><link rel="stylesheet" href="/a.css"><img src="/a.png"><script src="/a.js"></script><script>p.textContent = "touched"</script><iframe src="/frame"></iframe>`)
		})).ServeHTTP(w, r)
	}))
	defer srv.Close()
	dom := browse(t, false, "--virtual-time-budget=3000", "--dump-dom", srv.URL+"/")
	if !strings.Contains(dom, ">untouched<") {
		t.Errorf("a script has run: %s", dom)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, path := range asked {
		if path != "/" && path != "/favicon.ico" {
			t.Errorf("the browser asked for %s", path)
		}
	}
}
