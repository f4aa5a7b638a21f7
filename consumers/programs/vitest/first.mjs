import 'tsvisor';

export const setup = () => {};
