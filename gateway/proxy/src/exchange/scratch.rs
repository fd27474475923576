use std::cell::RefCell;

/// Room for one read of a body.
const SIZE: usize = 64 * 1024;

thread_local! {
    // All bodies of a worker pass through the same bytes, which stay in its core's cache. Nothing is kept in them between
    // two polls.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SIZE].into());
}

/// Calls `use_it` with the thread's buffer, or with one of its own should the thread's be in use.
pub(crate) fn with_scratch<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => use_it(&mut scratch),
        Err(_) => use_it(&mut vec![0; SIZE]),
    })
}
