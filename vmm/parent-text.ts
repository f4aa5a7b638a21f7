/** The account of a device that is divided, as text for people. */
import type { MdevParentState } from '../vfio/driver.js';

/** `256 MiB video memory, 192 MiB left; 32 engines, 24 left; placement mixed-size` */
export function parentText({
  resources,
  description,
}: Pick<MdevParentState, 'resources' | 'description'>): string {
  const amount = (value: number, unit: string) => (unit === '' ? `${value}` : `${value} ${unit}`);
  const parts = resources.map(
    ({ name, unit, total, left }) => `${amount(total, unit)} ${name}, ${amount(left, unit)} left`,
  );
  return [...parts, description].join('; ');
}

/** A line for each instance: its type, its UUID and what it has. */
export const useLines = ({ instances }: Pick<MdevParentState, 'instances'>): string[] =>
  instances.map(({ type, uuid, uses }) => {
    const shares = Object.entries(uses).map(([name, use]) => `${name} ${use}`);
    return `${type} ${uuid}: ${shares.join(', ')}`;
  });
