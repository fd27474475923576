use std::sync::Arc;
use std::task::{Context, Waker};

use parking_lot::Mutex;
use tidegate_http2::{Connection as Codec, StreamId};

use crate::connection::Connection;

/// A connection as its task and those of its requests share it. All run on one thread: the lock is never waited for.
pub(super) struct Shared {
    pub(super) connection: Arc<Connection>,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    pub(super) codec: Codec,
    pub(super) streams: Streams,
    /// The connection's task, while there is nothing that it knows to do.
    task: Option<Waker>,
    /// The connection is over.
    pub(super) is_over: bool,
    /// See [`crate::exchange::Client::tick`].
    pub(super) tick: u64,
}

/// The requests that are under way.
#[derive(Default)]
pub(super) struct Streams {
    /// Sorted by number: the peer's numbers only grow.
    list: Vec<Stream>,
    /// Some wait for room in the output.
    is_blocked: bool,
}

/// What came of a request's body and was not read, and who waits for it.
pub(super) struct Stream {
    id: StreamId,
    pub(super) input: Vec<u8>,
    /// How much of the input was read.
    pub(super) taken: usize,
    /// All of the body has come.
    pub(super) is_ended: bool,
    /// The stream is no more.
    pub(super) is_gone: bool,
    /// It is no more because of what its body was.
    pub(super) is_malformed: bool,
    waker: Option<Waker>,
}

impl State {
    pub(super) fn new(codec: Codec) -> Self {
        Self { codec, streams: Streams::default(), task: None, is_over: false, tick: 0 }
    }

    /// Keeps the connection's task, to be woken by [`Self::wake`].
    pub(super) fn park(&mut self, cx: &Context<'_>) {
        keep(&mut self.task, cx);
    }

    /// There is something to write, or to end.
    pub(super) fn wake(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Tells every request that the client has gone.
    pub(super) fn end(&mut self) {
        self.is_over = true;
        self.streams.wake_all();
    }
}

impl Streams {
    pub(super) fn open(&mut self, id: StreamId, is_ended: bool) {
        let stream =
            Stream { id, input: Vec::new(), taken: 0, is_ended, is_gone: false, is_malformed: false, waker: None };
        self.list.push(stream);
    }

    pub(super) fn get(&mut self, id: StreamId) -> Option<&mut Stream> {
        let at = self.place(id)?;
        Some(&mut self.list[at])
    }

    fn place(&self, id: StreamId) -> Option<usize> {
        self.list.binary_search_by_key(&id, |stream| stream.id).ok()
    }

    pub(super) fn remove(&mut self, id: StreamId) {
        if let Some(at) = self.place(id) {
            self.list.remove(at);
        }
    }

    /// Whether no request is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Keeps the request's task until something happens to its stream.
    pub(super) fn wait(&mut self, id: StreamId, cx: &Context<'_>) {
        if let Some(stream) = self.get(id) {
            keep(&mut stream.waker, cx);
        }
    }

    /// As [`Self::wait`], until there is room for more of its answer, too.
    pub(super) fn wait_for_room(&mut self, id: StreamId, cx: &Context<'_>) {
        self.is_blocked = true;
        self.wait(id, cx);
    }

    pub(super) fn wake(&mut self, id: StreamId) {
        if let Some(waker) = self.get(id).and_then(|stream| stream.waker.take()) {
            waker.wake();
        }
    }

    pub(super) fn wake_all(&mut self) {
        self.is_blocked = false;
        self.list.iter_mut().filter_map(|stream| stream.waker.take()).for_each(Waker::wake);
    }

    /// There is room in the output.
    pub(super) fn wake_blocked(&mut self) {
        if self.is_blocked {
            self.wake_all();
        }
    }
}

fn keep(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}
