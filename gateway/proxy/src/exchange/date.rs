use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
const LENGTH: usize = 29;

thread_local! {
    static LAST: Cell<(u64, [u8; LENGTH])> = const { Cell::new((u64::MAX, [b' '; LENGTH])) };
}

/// `at` as the `date` header has it; made once a second for each thread.
pub(super) fn http_date(at: SystemTime) -> [u8; LENGTH] {
    let second = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (last, text) = LAST.get();
    if last == second {
        return text;
    }
    let mut fresh = [b' '; LENGTH];
    let text = httpdate::fmt_http_date(UNIX_EPOCH + std::time::Duration::from_secs(second));
    fresh.iter_mut().zip(text.bytes()).for_each(|(place, byte)| *place = byte);
    LAST.set((second, fresh));
    fresh
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_change_with_the_second() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 700);
        let first = http_date(at(784_111_777));
        assert_eq!(&first, b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(at(784_111_777)), first);
        assert_eq!(&http_date(at(784_111_778)), b"Sun, 06 Nov 1994 08:49:38 GMT");
    }
}
