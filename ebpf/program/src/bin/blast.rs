#![no_std]
#![no_main]
use eventstream_xdp as _;
