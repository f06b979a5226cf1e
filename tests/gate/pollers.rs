//! Evidence is shared: however many ask, the servers are asked once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::scene::{Pair, Way, quiet};
use crate::subscribed::{Subscribed, session_of};
use crate::support::eventually;

const POLLERS: usize = 200;

#[test]
fn two_hundred_pollers_cost_the_servers_what_one_does() {
    let logged = |major| quiet(major).setting("log_statement", "all").setting("log_line_prefix", "%a ");
    let pair = Pair::of(logged(18), logged(18));
    let story = Subscribed::start(&pair, "app", Way::Slot);
    let gate = &story.gate;
    story.arrived();
    gate.fence();
    gate.until("cutover", "pass", "nothing was written since");
    let statements = || {
        [&pair.source, &pair.target].map(|server| server.log().matches("walgate LOG:  ").count()).iter().sum::<usize>()
    };
    assert!(statements() > 0, "what walgate asks is logged: {}", pair.source.log());

    // By the server's clock: each crowd asks for the same time.
    let asked = |pollers: usize, parameters: &str| {
        let (stop, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..pollers {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let answer = gate.ask("cutover", parameters);
                        assert_ne!(answer.state(), "fail", "{answer}");
                        answers.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            eventually("the crowd to ask", || if answers.load(Ordering::Relaxed) > pollers { Ok(()) } else { Err(()) });
            let (before, since) = (statements(), story.green.value("SELECT extract(epoch FROM clock_timestamp())"));
            story.green.until(&format!("SELECT extract(epoch FROM clock_timestamp()) - {since} > 2"), "t");
            let between = statements() - before;
            stop.store(true, Ordering::Relaxed);
            between
        })
    };
    let cost = |parameters: &str| {
        let [one, many] = [1, POLLERS].map(|pollers| asked(pollers, parameters));
        println!("{parameters}: in two seconds, one poller {one} statements, {POLLERS} pollers {many}");
        // Rounds come when they are asked for, so that two crowds never cost just the same; asked one by one it were 200 times.
        assert!(many <= 5 * one, "{one} statements for one, {many} for {POLLERS}");
    };
    cost("");
    // The same for those who wait for what does not come.
    let lock = session_of(&story.target, "lock");
    lock.run("BEGIN; LOCK orders IN ACCESS EXCLUSIVE MODE");
    gate.release();
    story.order();
    gate.fence();
    cost("&wait=1s");
}
