//! What is measured of the time that events take, and how it is reported.

use serde::Serialize;

use super::{Histogram, LatencySummary};

/// A part of an event's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// From the XDP program to the ingest agent: the time in the AF_XDP ring. Of packets with a stamp.
    RxToConsumed,
    /// Until the dispatcher has made what it took visible to the workers. Of the first event of each of its bursts.
    ConsumedToDispatched,
    /// Until a worker begins with the burst that the event is in.
    ConsumedToHandler,
    /// Both of the former and the time in the ring. Of packets with a stamp.
    RxToHandler,
    /// From the time in the frame, by the sender's clock. One value for the events of a slot that are in one burst.
    SendToHandler,
    /// What the disk takes to sync a segment of the event log.
    LogSync,
}

/// Histograms, and what they are of: several agents record the same.
pub type Spans = Vec<(Span, Histogram)>;

/// The report's `latency_ns`. A span of which nothing was recorded is absent.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latencies {
    /// Where no packet had a stamp, the same as `consumed_to_handler`.
    pub rx_to_handler: LatencySummary,
    /// What rx means in it.
    pub rx_is: Rx,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_to_consumed: Option<LatencySummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumed_to_dispatched: Option<LatencySummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumed_to_handler: Option<LatencySummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_to_handler: Option<LatencySummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_sync: Option<LatencySummary>,
}

/// From when on rx is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rx {
    /// The XDP program saw the packet.
    XdpProgram,
    /// The ingest agent took the datagram: no stamp has reached it.
    #[default]
    Consumed,
}

impl Rx {
    /// As the report has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::XdpProgram => "xdp_program",
            Self::Consumed => "consumed",
        }
    }
}

impl Latencies {
    pub fn read(spans: &[(Span, Histogram)]) -> Self {
        let of = |wanted| {
            let histograms = spans.iter().filter(|(span, _)| *span == wanted).map(|(_, histogram)| histogram);
            Some(Histogram::summarize(histograms)).filter(|summary| summary.count > 0)
        };
        let (rx_to_handler, consumed_to_handler) = (of(Span::RxToHandler), of(Span::ConsumedToHandler));
        Self {
            rx_to_handler: rx_to_handler.or(consumed_to_handler).unwrap_or_default(),
            rx_is: if rx_to_handler.is_some() { Rx::XdpProgram } else { Rx::Consumed },
            rx_to_consumed: of(Span::RxToConsumed),
            consumed_to_dispatched: of(Span::ConsumedToDispatched),
            consumed_to_handler,
            send_to_handler: of(Span::SendToHandler),
            log_sync: of(Span::LogSync),
        }
    }

    /// Every span that has values, by its key in the report.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, LatencySummary)> {
        let rx_to_handler = Some(self.rx_to_handler).filter(|summary| summary.count > 0);
        let all = [
            ("rx_to_consumed", self.rx_to_consumed),
            ("consumed_to_dispatched", self.consumed_to_dispatched),
            ("consumed_to_handler", self.consumed_to_handler),
            ("rx_to_handler", rx_to_handler),
            ("send_to_handler", self.send_to_handler),
            ("log_sync", self.log_sync),
        ];
        all.into_iter().filter_map(|(name, summary)| Some((name, summary?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(value: u64) -> Histogram {
        let histogram = Histogram::default();
        histogram.record(value, 1);
        histogram
    }

    #[test]
    fn without_stamps_rx_is_when_the_packet_was_consumed() {
        let mut spans = vec![(Span::ConsumedToHandler, recorded(10)), (Span::RxToHandler, Histogram::default())];
        let latencies = Latencies::read(&spans);
        assert_eq!((latencies.rx_is, latencies.rx_to_handler.max), (Rx::Consumed, 10));
        assert!(latencies.rx_to_consumed.is_none() && latencies.send_to_handler.is_none());
        spans.push((Span::RxToHandler, recorded(25)));
        let latencies = Latencies::read(&spans);
        assert_eq!((latencies.rx_is, latencies.rx_to_handler.max), (Rx::XdpProgram, 25));
        assert_eq!(latencies.consumed_to_handler.map(|summary| summary.max), Some(10));
    }

    #[test]
    fn agents_with_the_same_span_are_summed() {
        let spans = [(Span::SendToHandler, recorded(10)), (Span::SendToHandler, recorded(20))];
        let summary = Latencies::read(&spans).send_to_handler.unwrap();
        assert_eq!((summary.count, summary.max), (2, 20));
    }
}
