package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// maxNoise is the noise, in CPUs, above which a result is marked as noisy.
const maxNoise = 0.1

// ticks is USER_HZ, the number of units per second in which /proc counts CPU time. It is
// 100 on all platforms that Go supports.
const ticks = 100

// reading is a measurement of the total CPU time, in seconds, that other processes and
// the host of this virtual machine have used so far.
type reading struct {
	at             time.Time
	others, stolen float64
}

// noise is the average number of CPUs that other processes (others) and the host (stolen)
// used during a measurement.
type noise struct{ others, stolen float64 }

func (n noise) String() string { return fmt.Sprintf("%.2f + %.2f", n.others, n.stolen) }

func (n noise) loud() bool { return n.others+n.stolen > maxNoise }

// since returns the noise between an earlier reading and r.
func (r reading) since(before reading) noise {
	seconds := r.at.Sub(before.at).Seconds()
	return noise{max(0, r.others-before.others) / seconds, max(0, r.stolen-before.stolen) / seconds}
}

// process holds the parent and the CPU time of a process, as read from /proc.
type process struct {
	parent int
	cpu    int64 // ticks, including children that ended and were waited for
}

// readNoise reads the CPU times from a folder, usually /proc. It returns zeros if the
// folder does not exist. It leaves out this process and its descendants, including
// daemons (see adoptOrphans). It also leaves out kernel threads, which descend from
// process 2.
func readNoise(proc string) reading {
	r := reading{at: time.Now()}
	all := map[int]process{}
	paths, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "stat"))
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the process has ended, so its parent's time includes its time
		}
		if pid, p, ok := parseProcess(string(text)); ok {
			all[pid] = p
		}
	}
	for pid := range all {
		if !below(all, pid, os.Getpid()) && !below(all, pid, 2) {
			r.others += float64(all[pid].cpu) / ticks
		}
	}
	r.stolen = stolen(filepath.Join(proc, "stat"))
	return r
}

// parseProcess parses /proc/PID/stat (proc_pid_stat(5)).
func parseProcess(text string) (pid int, p process, ok bool) {
	i := strings.LastIndexByte(text, ')') // the name may contain spaces and parentheses
	if i < 0 {
		return 0, p, false
	}
	pid, err := strconv.Atoi(strings.Fields(text)[0])
	f := strings.Fields(text[i+1:]) // from field 3, the state, on
	if err != nil || len(f) < 15 {
		return 0, p, false
	}
	if p.parent, err = strconv.Atoi(f[1]); err != nil {
		return 0, p, false
	}
	for _, s := range f[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, p, false
		}
		p.cpu += n
	}
	return pid, p, true
}

// below reports whether the process pid equals ancestor or descends from it.
func below(all map[int]process, pid, ancestor int) bool {
	for range all {
		if pid == ancestor {
			return true
		}
		p, ok := all[pid]
		if !ok {
			return false
		}
		pid = p.parent
	}
	return false
}

// stolen returns the CPU time, in seconds, that the host gave to other virtual machines
// instead of this one. path is usually /proc/stat.
func stolen(path string) float64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	f := strings.Fields(strings.SplitN(string(text), "\n", 2)[0])
	if len(f) < 9 || f[0] != "cpu" {
		return 0
	}
	n, _ := strconv.ParseInt(f[8], 10, 64)
	return float64(n) / ticks
}
