//! When and how fast layers are completed while nobody waits. Pure but for the clock it is given.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Minutes of a day.
const DAY: u32 = 24 * 60;

/// Shortest batch in bytes, however low the rate: smaller requests waste more than they spare.
const LEAST_BATCH: u64 = 256 << 10;

/// A part of each day, in UTC: nodes have a clock, and not always a time zone. Written `22:00-06:00`; it may pass
/// midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First minute of the day.
    from: u32,
    /// First minute that is no part of it.
    to: u32,
}

impl Window {
    /// How long until it is open; zero if it is. `now` is the time since 1970.
    pub(crate) fn wait(self, now: Duration) -> Duration {
        let minute = u32::try_from(now.as_secs() / 60 % u64::from(DAY)).unwrap_or(0);
        let len = (self.to + DAY - self.from) % DAY;
        let since = (minute + DAY - self.from) % DAY;
        if since < len {
            return Duration::ZERO;
        }
        let within = Duration::from_secs(now.as_secs() % 60);
        Duration::from_secs(u64::from(DAY - since) * 60).saturating_sub(within)
    }
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Window, String> {
        let minute = |text: &str| {
            let (hours, minutes) = text.trim().split_once(':')?;
            let number = |text: &str, below: u32| -> Option<u32> {
                let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse().ok().filter(|number| digits && *number < below)
            };
            Some(number(hours, 24)? * 60 + number(minutes, 60)?)
        };
        let ends = text
            .split_once('-')
            .and_then(|(from, to)| Some((minute(from)?, minute(to)?)));
        match ends {
            Some((from, to)) if from != to => Ok(Window { from, to }),
            _ => Err(format!("{text:?} is no part of a day such as \"22:00-06:00\"")),
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from, self.to);
        write!(
            f,
            "{:02}:{:02}-{:02}:{:02}",
            from / 60,
            from % 60,
            to / 60,
            to % 60
        )
    }
}

/// Limits of background completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// When it may work; `None`: always.
    pub window: Option<Window>,
    /// Most stored bytes per second; `None`: as fast as they come.
    pub rate: Option<u64>,
}

impl Pace {
    /// Plain bytes of a batch, at most `usual`.
    pub(crate) fn batch(self, usual: u64) -> u64 {
        self.rate
            .map_or(usual, |rate| (rate / 4).clamp(LEAST_BATCH, usual))
    }

    /// Pause after so many stored bytes that took `took`.
    pub(crate) fn pause(self, bytes: u64, took: Duration) -> Duration {
        let due = |rate: u64| Duration::from_millis(bytes.saturating_mul(1000) / rate.max(1));
        self.rate
            .map_or(Duration::ZERO, |rate| due(rate).saturating_sub(took))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn windows() {
        let rows = [
            ("22:00-06:00", "23:00", 0),
            ("22:00-06:00", "05:59", 0),
            ("22:00-06:00", "06:00", 16 * 60),
            ("22:00-06:00", "21:59", 1),
            ("08:30-09:00", "08:29", 1),
            ("08:30-09:00", "08:30", 0),
            ("08:30-09:00", "09:00", 23 * 60 + 30),
        ];
        for (window, now, wait) in rows {
            let (hours, minutes) = now.split_once(':').unwrap();
            let minutes = hours.parse::<u64>().unwrap() * 60 + minutes.parse::<u64>().unwrap();
            let now = Duration::from_secs(5 * 86_400 + minutes * 60);
            let parsed: Window = window.parse().unwrap();
            assert_eq!(
                parsed.wait(now),
                Duration::from_secs(wait * 60),
                "{window} at {now:?}"
            );
            assert_eq!(parsed.to_string(), window);
        }
        let window: Window = "10:00-11:00".parse().unwrap();
        assert_eq!(
            window.wait(Duration::from_secs(9 * 3600 + 59 * 60 + 58)),
            Duration::from_secs(2)
        );
        for wrong in [
            "",
            "22:00",
            "22:00-24:00",
            "1:00-2:00",
            "10:00-10:00",
            "10:60-11:00",
            "+1:00-02:00",
        ] {
            assert!(wrong.parse::<Window>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates() {
        let pace = |rate| Pace { window: None, rate };
        assert_eq!(pace(None).batch(4 << 20), 4 << 20);
        assert_eq!(pace(Some(1)).batch(4 << 20), LEAST_BATCH);
        assert_eq!(pace(Some(1 << 40)).batch(4 << 20), 4 << 20);
        assert_eq!(pace(None).pause(u64::MAX, Duration::ZERO), Duration::ZERO);
        let took = Duration::from_millis(300);
        assert_eq!(pace(Some(1000)).pause(500, took), Duration::from_millis(200));
        assert_eq!(pace(Some(1000)).pause(100, took), Duration::ZERO);
    }
}
