//! Overlays, by packets: pools that use VXLAN or IPIP in all modes, live changes of the mode, nodes without BGP, and strangers.

mod cluster;
mod ipip;
mod modes;
mod moves;
mod strangers;
