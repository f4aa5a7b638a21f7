/** For tests: the event task of `counted-nic`. */
import { createQueueTask } from '../../devices/virtio-net/queue-task.js';
import { countedResponder } from './counted-responder.js';

export const start = createQueueTask([countedResponder]);
