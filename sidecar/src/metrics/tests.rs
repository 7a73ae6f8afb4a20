// SPDX-License-Identifier: Apache-2.0
use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Colour {
    Red = 1,
    Blue,
}

impl Colour {
    const ALL: [Self; 2] = [Self::Red, Self::Blue];

    fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Blue => "blue",
        }
    }
}

labels! { Colour: "colour" }

const BOUNDS: [f64; 1] = [1.0];

metrics! {
    #[derive(Default)]
    struct Balls {
        thrown: Counter = "thrown", "Balls thrown" => "game.{colour}.thrown", "thrown";
        caught: Counter = "ended", "Balls that came down" { how: "caught" } => "{player}.caught";
        lost: Counter = "ended" { how: "lost" };
        shown_only: Gauge => "game.{colour}.shown";
    }
}

metrics! {
    struct Game {
        balls: By<Colour, Balls>;
        players: Gauge = "players", "Players" => "game.players";
        seconds: Histogram = "seconds", "Time" buckets BOUNDS;
    }
}

#[test]
fn a_line_is_a_series_and_its_statistics() {
    let mut registry = MetricRegistry::new();
    let game = registry.add::<Game>();
    game.balls[Colour::Red].thrown.inc_by(2);
    game.balls[Colour::Blue].thrown.inc();
    game.balls[Colour::Blue].lost.inc();
    game.players.set(3);
    let text = registry.text();
    for line in [
        "# HELP culvert_ended Balls that came down.",
        "culvert_thrown_total{colour=\"red\"} 2",
        "culvert_thrown_total{colour=\"blue\"} 1",
        "culvert_ended_total{colour=\"red\",how=\"caught\"} 0",
        "culvert_ended_total{colour=\"blue\",how=\"lost\"} 1",
        "culvert_players 3",
        "culvert_seconds_bucket{le=\"1.0\"} 0",
    ] {
        assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
    }
    assert_eq!(text.matches("# HELP culvert_ended ").count(), 1, "{text}");
    let stats = registry.stats();
    let expected = [
        ("game.blue.shown", 0),
        ("game.blue.thrown", 1),
        ("game.players", 3),
        ("game.red.shown", 0),
        ("game.red.thrown", 2),
        // Of both colours.
        ("thrown", 3),
    ];
    assert_eq!(stats.iter().collect::<Vec<_>>(), expected);
}

#[test]
fn an_unregistered_struct_is_read_under_the_labels_of_the_moment() {
    let balls = Balls::default();
    balls.caught.inc();
    let mut stats = Stats::default();
    stats.read(&balls, &[("player", "ann")]);
    let expected = [("ann.caught", 1), ("thrown", 0)];
    assert_eq!(stats.iter().collect::<Vec<_>>(), expected);
}
