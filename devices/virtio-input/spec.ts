/** Constants of input devices in the virtio 1.2 specification and linux/virtio_input.h, and those of linux/input-event-codes.h. */

// struct virtio_input_config, 5.8.4
export const VIRTIO_INPUT_CFG_ID_NAME = 0x01;
export const VIRTIO_INPUT_CFG_ID_SERIAL = 0x02;
export const VIRTIO_INPUT_CFG_ID_DEVIDS = 0x03;
export const VIRTIO_INPUT_CFG_PROP_BITS = 0x10;
export const VIRTIO_INPUT_CFG_EV_BITS = 0x11;
export const VIRTIO_INPUT_CFG_ABS_INFO = 0x12;
export const CONFIG_SELECT = 0;
export const CONFIG_SUBSEL = 1;
export const CONFIG_SIZE = 2;
export const CONFIG_DATA = 8;
export const CONFIG_DATA_BYTES = 128;

/** struct virtio_input_event: type, code and value. */
export const EVENT_BYTES = 8;

export const EVENTQ = 0;
export const STATUSQ = 1;
export const QUEUE_COUNT = 2;

// linux/input-event-codes.h
export const EV_SYN = 0x00;
export const EV_KEY = 0x01;
export const EV_REL = 0x02;
export const EV_ABS = 0x03;
export const EV_LED = 0x11;
export const EV_REP = 0x14;
export const SYN_REPORT = 0;
export const REL_X = 0x00;
export const REL_Y = 0x01;
export const REL_HWHEEL = 0x06;
export const REL_WHEEL = 0x08;
export const ABS_X = 0x00;
export const ABS_Y = 0x01;
export const LED_NUML = 0x00;
export const LED_CAPSL = 0x01;
export const LED_SCROLLL = 0x02;
export const BTN_LEFT = 0x110;
export const BTN_RIGHT = 0x111;
export const BTN_MIDDLE = 0x112;
export const BTN_SIDE = 0x113;
export const BTN_EXTRA = 0x114;
/** The first and last of a keyboard's keys: KEY_ESC, KEY_MICMUTE. */
export const FIRST_KEY = 1;
export const LAST_KEY = 248;
export const BUS_VIRTUAL = 0x06;

/** Largest value of a tablet's axes; the smallest is 0. */
export const ABS_MAX_VALUE = 0x7fff;
/** Most events of a packet, without its SYN_REPORT. */
export const MOST_PACKET_EVENTS = 32;
