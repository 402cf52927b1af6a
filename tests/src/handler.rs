//! Handlers that a test writes where it needs them.

use eventstream::worker::{EventView, Handler, Outcome, WindowView};

/// A handler made of a closure.
pub struct FnHandler {
    handle: Box<HandleFn>,
    handle_window: Option<Box<HandleWindowFn>>,
}

/// What a test does with an event.
type HandleFn = dyn FnMut(&EventView<'_>, bool) -> Outcome + Send;

/// What a test does with a window.
type HandleWindowFn = dyn FnMut(&WindowView<'_>) -> Outcome + Send;

impl FnHandler {
    pub fn new(handle: impl FnMut(&EventView<'_>, bool) -> Outcome + Send + 'static) -> Self {
        Self { handle: Box::new(handle), handle_window: None }
    }

    /// Handles windows as windows.
    pub fn with_windows(self, handle: impl FnMut(&WindowView<'_>) -> Outcome + Send + 'static) -> Self {
        Self { handle_window: Some(Box::new(handle)), ..self }
    }
}

impl Handler for FnHandler {
    fn handle(&mut self, event: &EventView<'_>, end_of_batch: bool) -> Outcome {
        (self.handle)(event, end_of_batch)
    }

    fn handle_window(&mut self, window: &WindowView<'_>) -> Outcome {
        match &mut self.handle_window {
            Some(handle) => handle(window),
            None => window.each(&mut self.handle),
        }
    }
}
