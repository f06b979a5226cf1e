//! `--watch` on a terminal: keys, signals and the clock, between the probe and the view.

use std::io;
use std::thread;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval};

use super::limits::Verdict;
use super::probe::Probe;
use super::view::View;
use super::watch::INTERVAL;
use crate::time::PgTimestamp;

/// How many times the view is drawn for each sample of its spark lines.
const DRAWN: u32 = 4;

/// Shows the view until it is left; returns the last verdict. The terminal is given back as it was, after a panic too.
pub(super) async fn run(probe: &Probe) -> io::Result<Verdict> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut terminal = ratatui::try_init()?;
    let mut view = View::new(probe.target(), *probe.limits());
    let ended = tokio::select! {
        ended = show(probe, &mut view, &mut terminal) => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    ratatui::restore();
    ended.map(|()| view.verdict())
}

/// Draws until the view is left.
async fn show(probe: &Probe, view: &mut View, terminal: &mut DefaultTerminal) -> io::Result<()> {
    let mut events = events();
    let mut ticks = interval(INTERVAL / DRAWN);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut drawn = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                view.show(probe.look(), PgTimestamp::now());
                if drawn % DRAWN == 0 {
                    view.sample();
                }
                drawn += 1;
            }
            event = events.recv() => match event {
                Some(Event::Key(key)) if key.kind == KeyEventKind::Press => {
                    if !press(view, key) {
                        return Ok(());
                    }
                }
                // Another size: it is drawn anew.
                Some(_) => {}
                None => return Ok(()),
            },
        }
        terminal.draw(|frame| view.draw(frame))?;
    }
}

/// Does what a key asks for; false if that is to leave.
fn press(view: &mut View, key: KeyEvent) -> bool {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Char('p' | ' ') => view.pause(),
        KeyCode::Up | KeyCode::Char('k') => view.select(-1),
        KeyCode::Down | KeyCode::Char('j') => view.select(1),
        _ => {}
    }
    true
}

/// What comes from the terminal, read by a thread that ends with the process: nothing interrupts a read.
fn events() -> UnboundedReceiver<Event> {
    let (sender, events) = unbounded_channel();
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.send(event).is_err() {
                break;
            }
        }
    });
    events
}
