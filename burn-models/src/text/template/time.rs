//! `strftime_now` of chat templates: the current date and time in UTC.

use std::fmt::Write;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A point in time, broken down in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment {
    year: i64,
    /// 0 to 11.
    month: usize,
    /// 1 to 31.
    day: u32,
    /// 0 is Sunday.
    weekday: usize,
    /// 1 to 366.
    day_of_year: u32,
    hour: u32,
    minute: u32,
    second: u32,
}

impl Moment {
    /// From seconds since 1970-01-01T00:00:00Z, with the proleptic Gregorian calendar.
    fn at(seconds: i64) -> Self {
        let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400) as u32);
        // Years begin in March here, so that the leap day is the last of a year; 400 years have 146,097 days.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_march_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_march_year + 2) / 153;
        let day = (day_of_march_year - (153 * march_month + 2) / 5 + 1) as u32;
        let month = if march_month < 10 { march_month + 2 } else { march_month - 10 } as usize;
        let year = year_of_era + era * 400 + i64::from(month < 2);
        let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month] + u32::from(leap && month > 1);
        Self {
            year,
            month,
            day,
            weekday: (days + 4).rem_euclid(7) as usize,
            day_of_year: before + day,
            hour: rest / 3_600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }
}

/// Python's `strftime` for the directives that chat templates use; `Err` names the first one that is not known.
pub(super) fn strftime(format: &str, seconds: i64) -> Result<String, String> {
    let t = Moment::at(seconds);
    let hour12 = (t.hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        // `%-d`: no leading zeros.
        let bare = directive == Some('-');
        if bare {
            directive = chars.next();
        }
        let mut padded = |value: u32, width: usize| {
            let width = if bare { 0 } else { width };
            let _ = write!(out, "{value:0width$}");
        };
        match directive {
            Some('d') => padded(t.day, 2),
            Some('m') => padded(t.month as u32 + 1, 2),
            Some('H') => padded(t.hour, 2),
            Some('I') => padded(hour12, 2),
            Some('M') => padded(t.minute, 2),
            Some('S') => padded(t.second, 2),
            Some('j') => padded(t.day_of_year, 3),
            Some('y') => padded(t.year.rem_euclid(100) as u32, 2),
            Some('Y') => out.push_str(&t.year.to_string()),
            Some('B') => out.push_str(MONTHS[t.month]),
            Some('b' | 'h') => out.push_str(&MONTHS[t.month][..3]),
            Some('A') => out.push_str(DAYS[t.weekday]),
            Some('a') => out.push_str(&DAYS[t.weekday][..3]),
            Some('p') => out.push_str(if t.hour < 12 { "AM" } else { "PM" }),
            Some('e') => out.push_str(&format!("{:2}", t.day)),
            Some('F') => out.push_str(&format!("{}-{:02}-{:02}", t.year, t.month + 1, t.day)),
            Some('T') => out.push_str(&format!("{:02}:{:02}:{:02}", t.hour, t.minute, t.second)),
            Some('z') => out.push_str("+0000"),
            Some('Z') => out.push_str("UTC"),
            Some('%') => out.push('%'),
            Some(other) => return Err(format!("%{other}")),
            None => return Err("%".into()),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn known_moments() {
        // Reference: `date -u -d @N`.
        let cases = [
            (0, "1970-01-01 00:00:00 Thursday 001"),
            (951_782_400, "2000-02-29 00:00:00 Tuesday 060"),
            (1_709_251_199, "2024-02-29 23:59:59 Thursday 060"),
            (1_709_251_200, "2024-03-01 00:00:00 Friday 061"),
            (4_102_444_799, "2099-12-31 23:59:59 Thursday 365"),
            (-1, "1969-12-31 23:59:59 Wednesday 365"),
        ];
        for (seconds, text) in cases {
            assert_eq!(strftime("%Y-%m-%d %H:%M:%S %A %j", seconds).unwrap(), text);
        }
        assert_eq!(strftime("%d %b %Y, %-d %I%p %%", 1_721_952_000).unwrap(), "26 Jul 2024, 26 12AM %");
        assert_eq!(strftime("%Q", 0).unwrap_err(), "%Q");
    }
}
