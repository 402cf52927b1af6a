//! Times as people write them: RFC 3339 in UTC. Inside they are nanoseconds since the UNIX epoch.

const DAY_S: u64 = 86_400;

/// `2026-11-24T10:30:00Z`, with or without a fraction of a second, or whole seconds since the UNIX epoch.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let refuse = || format!("`{text}` is no time such as 2026-11-24T10:30:00Z, and no number of seconds since 1970");
    if let Ok(seconds) = text.parse::<u64>() {
        return seconds.checked_mul(1_000_000_000).ok_or_else(refuse);
    }
    parse_date(text).ok_or_else(refuse)
}

fn parse_date(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    if year < 1970 || hour > 23 || minute > 59 || second > 59 || fraction.len() > 9 {
        return None;
    }
    let days = days_since_1970(year, month, day)?;
    let nanos: u64 = if fraction.is_empty() { 0 } else { format!("{fraction:0<9}").parse().ok()? };
    ((days * DAY_S) + hour * 3600 + minute * 60 + second).checked_mul(1_000_000_000)?.checked_add(nanos)
}

fn numbers(text: &str, between: char, digits: [usize; 3]) -> Option<[u64; 3]> {
    let mut found = [0; 3];
    let mut parts = text.split(between);
    for (number, digits) in found.iter_mut().zip(digits) {
        let part = parts.next()?;
        if part.len() != digits || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn days_of_month(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=days_of_month(year, month)).contains(&day) {
        return None;
    }
    let years: u64 = (1970..year).map(|year| 365 + u64::from(is_leap(year))).sum();
    let months: u64 = (1..month).map(|month| days_of_month(year, month)).sum();
    Some(years + months + day - 1)
}

/// To the millisecond; 0 is no time.
pub(super) fn shown(time_ns: u64) -> String {
    if time_ns == 0 {
        return "-".to_owned();
    }
    let (seconds, millis) = (time_ns / 1_000_000_000, time_ns / 1_000_000 % 1000);
    let (mut days, of_day) = (seconds / DAY_S, seconds % DAY_S);
    let (mut year, mut month) = (1970, 1);
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    while days >= days_of_month(year, month) {
        days -= days_of_month(year, month);
        month += 1;
    }
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_back() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00.000Z", 0),
            ("2000-02-29T12:00:01.000Z", 951_825_601),
            ("2026-11-24T10:30:00.000Z", 1_795_516_200),
            ("2100-03-01T00:00:00.000Z", 4_107_542_400),
        ] {
            assert_eq!(parse(text), Ok(seconds * 1_000_000_000), "{text}");
            assert_eq!(shown(seconds * 1_000_000_000), if seconds == 0 { "-" } else { text });
        }
        assert_eq!(parse("1970-01-01T00:00:00.25Z"), Ok(250_000_000));
        assert_eq!(parse("7"), Ok(7_000_000_000));
        for refused in ["", "now", "2026-02-29T00:00:00Z", "2026-11-24", "2026-11-24T24:00:00Z", "2026-11-24T1:00:00Z"]
        {
            assert!(parse(refused).is_err(), "{refused}");
        }
    }
}
