//! The text that Prometheus reads, in its format 0.0.4.
//!
//! It is written here and not by a library because Calico's names must come out as its dashboards read them: counters without
//! `_total`, and summaries. See docs/adr/0012.

use std::fmt::Write as _;

use super::estimate::{Histogram, Summary};

/// The content type of a page.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A kind of metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Summary,
    Histogram,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Summary => "summary",
            Self::Histogram => "histogram",
        }
    }
}

/// What is said of a metric in general.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// One sentence, with the unit.
    pub(crate) help: &'static str,
}

/// A page of metrics.
#[derive(Debug, Default)]
pub(crate) struct Page {
    text: String,
}

impl Page {
    /// The text.
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    /// Begins a family; its samples follow.
    pub(crate) fn family(&mut self, family: &Family) -> Samples<'_> {
        let Family { name, kind, help } = family;
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
        Samples { page: self, name }
    }
}

/// Writes the samples of a family.
pub(crate) struct Samples<'a> {
    page: &'a mut Page,
    name: &'static str,
}

impl Samples<'_> {
    /// One value.
    pub(crate) fn value(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        self.line("", labels, value);
        self
    }

    /// One count or size.
    pub(crate) fn count(&mut self, labels: &[(&str, &str)], value: u64) -> &mut Self {
        self.start("", labels);
        let _ = writeln!(self.page.text, " {value}");
        self
    }

    /// Quantiles, sum and count.
    pub(crate) fn summary(&mut self, summary: &Summary) {
        for (text, quantile) in [("0.5", 0.5), ("0.9", 0.9), ("0.99", 0.99)] {
            self.line("", &[("quantile", text)], summary.quantile(quantile).unwrap_or(f64::NAN));
        }
        self.line("_sum", &[], summary.sum());
        self.start("_count", &[]);
        let _ = writeln!(self.page.text, " {}", summary.count());
    }

    /// Buckets, sum and count.
    pub(crate) fn histogram(&mut self, histogram: &Histogram) {
        for (bound, count) in histogram.cumulative() {
            let bound = number(bound);
            self.start("_bucket", &[("le", &bound)]);
            let _ = writeln!(self.page.text, " {count}");
        }
        self.start("_bucket", &[("le", "+Inf")]);
        let _ = writeln!(self.page.text, " {}", histogram.count());
        self.line("_sum", &[], histogram.sum());
        self.start("_count", &[]);
        let _ = writeln!(self.page.text, " {}", histogram.count());
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        self.start(suffix, labels);
        let _ = writeln!(self.page.text, " {}", number(value));
    }

    fn start(&mut self, suffix: &str, labels: &[(&str, &str)]) {
        let text = &mut self.page.text;
        let _ = write!(text, "{}{suffix}", self.name);
        for (place, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(text, "{}{label}=\"{value}\"", if place == 0 { '{' } else { ',' });
        }
        if !labels.is_empty() {
            text.push('}');
        }
    }
}

/// A number as the format has it.
fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const FAMILY: Family = Family { name: "x", kind: Kind::Gauge, help: "Some \\ thing\nelse." };

    #[test]
    fn a_page_is_as_the_format_has_it() {
        let mut page = Page::default();
        page.family(&FAMILY).count(&[("a", "q\"uote\\"), ("b", "new\nline")], 7).value(&[], 0.25);
        assert_eq!(
            page.into_text(),
            "# HELP x Some \\\\ thing\\nelse.\n# TYPE x gauge\nx{a=\"q\\\"uote\\\\\",b=\"new\\nline\"} 7\nx 0.25\n"
        );
    }

    #[test]
    fn histograms_are_cumulative_and_summaries_without_samples_are_not_a_number() {
        let mut histogram = Histogram::new(&[0.001, 0.5]);
        for milliseconds in [1, 2, 600] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        let mut page = Page::default();
        page.family(&Family { kind: Kind::Histogram, ..FAMILY }).histogram(&histogram);
        let text = page.into_text();
        assert!(text.contains("x_bucket{le=\"0.001\"} 1\nx_bucket{le=\"0.5\"} 2\nx_bucket{le=\"+Inf\"} 3\n"), "{text}");
        assert!(text.ends_with("x_sum 0.603\nx_count 3\n"), "{text}");
        let mut page = Page::default();
        page.family(&Family { kind: Kind::Summary, ..FAMILY }).summary(&Summary::new(Instant::now()));
        let text = page.into_text();
        assert!(text.contains("x{quantile=\"0.99\"} NaN\nx_sum 0\nx_count 0\n"), "{text}");
    }
}
