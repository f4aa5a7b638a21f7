import type { Command } from './command-line.js';

export const CONFORM: Command = {
  name: 'conform',
  brief: 'say which rules of vfio-user a server or client keeps',
  argument: 'SOCKET',
  summary: [
    'Plays the rules of the vfio-user protocol against the server at SOCKET: right',
    'and wrong messages, each rule on a connection of its own. The device is used',
    'and reset, so let it be one that nobody needs.',
    '',
    'With --listen, plays a server at SOCKET to a client: COMMAND, which is started',
    'for each rule, with {} replaced by the path of SOCKET; without COMMAND, whoever',
    'connects next.',
  ],
  options: [
    {
      name: 'listen',
      value: 'SOCKET',
      help: ['judge clients, which connect to SOCKET; end the options', 'by -- before COMMAND'],
    },
    {
      name: 'only',
      value: 'RULE',
      isRepeatable: true,
      help: ['play only this rule (repeatable); docs/conformance.md has', 'their names'],
    },
    {
      name: 'timeout',
      value: 'SECONDS',
      help: ['how long each reply may take; 2 by default, and 10 for', 'clients'],
    },
    { name: 'json', help: ['the report, or the error, as one line of JSON'] },
    { name: 'help', short: 'h', help: ['print this'] },
  ],
  more: [
    '',
    'A rule that is about something the device lacks is not applicable. The exit',
    'code is 0 if no rule failed, 1 if one failed or not all could be tried, 64 for',
    'wrong usage, 69 if nobody listens at SOCKET, 74 if the output cannot be',
    'written.',
  ],
};
