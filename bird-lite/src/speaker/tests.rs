//! Speakers that talk to each other over a simulated network, by a virtual clock.
