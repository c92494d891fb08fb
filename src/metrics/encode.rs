//! From samples to text.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::stats::Sample;

use super::families::{FAMILIES, Family, FamilyKind};

/// What the text is, for HTTP.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The library adds it to counters by itself.
const COUNTER_SUFFIX: &str = "_total";

#[derive(Debug)]
struct Samples(Vec<Sample>);

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for family in FAMILIES {
            let of_it: Vec<&Sample> = self.0.iter().filter(|s| s.name == family.name).collect();
            if !of_it.is_empty() {
                put(&mut encoder, family, &of_it)?;
            }
        }
        Ok(())
    }
}

fn put(
    encoder: &mut DescriptorEncoder<'_>,
    family: &Family,
    samples: &[&Sample],
) -> Result<(), std::fmt::Error> {
    let (name, kind) = match family.kind {
        FamilyKind::Counter => {
            let name = family.name.strip_suffix(COUNTER_SUFFIX);
            (name.unwrap_or(family.name), MetricType::Counter)
        }
        FamilyKind::Gauge => (family.name, MetricType::Gauge),
    };
    let mut metric = encoder.encode_descriptor(name, family.help, None, kind)?;
    for sample in samples {
        // The library writes values as they are.
        let labels: Vec<(&str, String)> = sample
            .labels
            .iter()
            .map(|(name, value)| (*name, escaped(value)))
            .collect();
        let one = metric.encode_family(&labels)?;
        match family.kind {
            FamilyKind::Counter => ConstCounter::new(sample.value).encode(one)?,
            FamilyKind::Gauge => ConstGauge::new(sample.value).encode(one)?,
        }
    }
    Ok(())
}

/// A label's value as it stands between quotes.
fn escaped(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    value.replace('\n', "\\n")
}

/// The text of all samples that belong to a family.
pub fn encode(samples: Vec<Sample>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Samples(samples)));
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    as_prometheus(&text)
}

/// The library speaks OpenMetrics, whose descriptions of counters lack the suffix, and which marks its end.
/// Prometheus' own text format is read by more.
fn as_prometheus(text: &str) -> String {
    let lines = text.lines().filter(|line| *line != "# EOF").map(|line| {
        let described = FAMILIES.iter().find_map(|family| {
            let bare = family.name.strip_suffix(COUNTER_SUFFIX)?;
            let rest = ["# HELP ", "# TYPE "].iter().find_map(|word| {
                let rest = line.strip_prefix(word)?.strip_prefix(bare)?;
                rest.starts_with(' ').then_some((word, rest))
            });
            rest.map(|(word, rest)| format!("{word}{}{rest}", family.name))
        });
        described.unwrap_or_else(|| line.to_owned()) + "\n"
    });
    lines.collect()
}
