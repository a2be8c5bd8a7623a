package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
	"time"
)

// series are points by name.
type series struct {
	names  []string
	points map[string][][2]float64
}

func (s *series) at(name string, x, y float64) {
	if s.points == nil {
		s.points = map[string][][2]float64{}
	}
	if !slices.Contains(s.names, name) {
		s.names = append(s.names, name)
	}
	s.points[name] = append(s.points[name], [2]float64{x, y})
}

// latencies are the percentiles of each round.
type latencies struct {
	names  []string
	rounds map[string][][]time.Duration
}

func (l *latencies) add(name string, percentiles []time.Duration) {
	if l.rounds == nil {
		l.rounds = map[string][][]time.Duration{}
	}
	if !slices.Contains(l.names, name) {
		l.names = append(l.names, name)
	}
	l.rounds[name] = append(l.rounds[name], percentiles)
}

// plots are the drawings, by file name.
func (r *report) plots() map[string]string {
	drawn := map[string]string{}
	if len(r.growth.names) > 0 {
		drawn["throughput.svg"] = plot{
			title: "A warm manifest by digest: answers a second", across: "connections", series: r.growth,
		}.svg()
	}
	if len(r.latencies.names) > 0 {
		var s series
		for _, name := range r.latencies.names {
			for i, p := range percentiles {
				var at []float64
				for _, round := range r.latencies.rounds[name] {
					at = append(at, round[i].Seconds()*1e3)
				}
				s.at(name, 100/(100-p), median(at)) // so that 99 and 99.9 lie as far apart as 90 and 99
			}
		}
		labels := map[float64]string{}
		for _, p := range percentiles {
			labels[100/(100-p)] = fmt.Sprintf("%g %%", p)
		}
		drawn["latency.svg"] = plot{
			title: "A warm manifest by digest, 64 connections: milliseconds", across: "percentile", series: s, labels: labels,
		}.svg()
	}
	return drawn
}

// plot draws lines on two logarithmic axes.
type plot struct {
	title, across string
	series        series
	labels        map[float64]string // of the points across; their numbers by default
}

func (p plot) svg() string {
	const width, height, left, right, top, bottom = 760, 420, 70, 130, 40, 50
	var xs, ys []float64
	for _, points := range p.series.points {
		for _, at := range points {
			xs, ys = append(xs, at[0]), append(ys, at[1])
		}
	}
	low, high := math.Floor(math.Log10(slices.Min(ys))), math.Ceil(math.Log10(slices.Max(ys)))
	if low == high {
		high++
	}
	first, last := math.Log(slices.Min(xs)), math.Log(slices.Max(xs))
	x := func(v float64) float64 { return left + (math.Log(v)-first)/(last-first)*(width-left-right) }
	y := func(v float64) float64 {
		return height - bottom - (math.Log10(v)-low)/(high-low)*(height-top-bottom)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/><text x="%d" y="22" font-size="15">%s</text>`+"\n", width, height, left, html.EscapeString(p.title))
	for exponent := low; exponent <= high; exponent++ {
		v := math.Pow(10, exponent)
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n",
			left, width-right, y(v), y(v), left-8, y(v)+4, html.EscapeString(fmt.Sprintf("%g", v)))
	}
	slices.Sort(xs)
	for _, v := range slices.Compact(xs) {
		label := p.labels[v]
		if label == "" {
			label = fmt.Sprintf("%g", v)
		}
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x(v), height-bottom+18, html.EscapeString(label))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", (left+width-right)/2, height-10, html.EscapeString(p.across))
	colours := []string{"#0b6e4f", "#b3541e", "#3a5a98", "#777777"}
	for i, name := range p.series.names {
		colour := colours[i%len(colours)]
		var line []string
		points := p.series.points[name]
		for _, at := range points {
			line = append(line, fmt.Sprintf("%.1f,%.1f", x(at[0]), y(at[1])))
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(line, " "), colour)
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", width-right+10, top+20+18*i, colour, html.EscapeString(name))
	}
	b.WriteString("</svg>\n")
	return b.String()
}
