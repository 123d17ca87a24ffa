//! Overlays, by packets: pools that use VXLAN in all modes, live changes of the mode, nodes without BGP, and strangers.

mod cluster;
mod modes;
mod moves;
mod strangers;
