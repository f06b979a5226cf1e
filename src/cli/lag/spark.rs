//! What a consumer's lag was over the last minutes, as a line of bars.

use std::collections::VecDeque;

/// Five minutes of them, one a second.
const SAMPLES: usize = 300;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The lag of one consumer, once a second.
#[derive(Debug, Default)]
pub(super) struct Spark {
    samples: VecDeque<Option<f64>>,
}

impl Spark {
    /// Adds the newest, where it is known.
    pub(super) fn push(&mut self, seconds: Option<f64>) {
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(seconds);
    }

    /// So many characters at the most, the newest last, each the worst of its share of time. The highest is the most that
    /// there was; what is not known is left blank.
    pub(super) fn bars(&self, width: usize) -> String {
        let share = self.samples.len().div_ceil(width.max(1)).max(1);
        let (older, newer) = self.samples.as_slices();
        let samples: Vec<Option<f64>> = [older, newer].concat();
        let most = samples.iter().flatten().fold(0.0, |most: f64, seconds| most.max(*seconds));
        let bar = |worst: f64| {
            let step = if most > 0.0 { (worst / most * 7.0).ceil() as usize } else { 0 };
            BARS.get(step.min(7)).copied().unwrap_or(' ')
        };
        // From the newest on, so that it is the oldest share that is not full.
        let shares = samples.rchunks(share).rev();
        shares.map(|share| share.iter().flatten().copied().reduce(f64::max).map_or(' ', bar)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spark(samples: impl IntoIterator<Item = Option<f64>>) -> Spark {
        let mut spark = Spark::default();
        samples.into_iter().for_each(|sample| spark.push(sample));
        spark
    }

    #[test]
    fn the_newest_is_last_and_the_unknown_is_blank() {
        assert_eq!(spark([]).bars(5), "");
        assert_eq!(spark([0.0, 0.0].map(Some)).bars(5), "▁▁");
        assert_eq!(spark([Some(0.0), None, Some(1.0), Some(4.0), Some(8.0)]).bars(5), "▁ ▂▅█");
    }

    #[test]
    fn a_share_of_time_shows_its_worst() {
        let minutes = spark((0..1000).map(|second| Some(if second == 998 { 8.0 } else { 0.0 })));
        assert_eq!(minutes.bars(5), "▁▁▁▁█");
        assert_eq!(minutes.bars(1), "█");
        assert_eq!(minutes.bars(0).chars().count(), 1);
    }
}
